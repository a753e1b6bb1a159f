"""How the web page looks, in gradio. No other module of ldm_jax imports it."""

import html
import pathlib

import gradio as gr

from ldm_jax import cli, control, pictures, webpage

TITLE = "ldm_jax"
WEIGHTINGS = {"guess": "guess mode", "resolution": "CFG resolution weighting"}
WAYS = {"ready": "a hint already", "find": "a picture to find it in"}
# What stands in the form comes as it is: gradio would open pictures and measure numbers
# itself, and tell what is wrong in words of its own.
AS_IT_IS = dict(preprocess=False)
KEPT = 3600, 86_400  # seconds: every hour, files of more than a day are removed
# Fonts that are there: gradio's own would be fetched from Google.
FONTS = dict(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = """
.gradio-container { max-width: 1280px !important; margin: auto; }
#hint img, #picture img, #examples img { image-rendering: pixelated; }
#hint img, #picture img { width: 100%; height: 100%; object-fit: contain; }
#hint img, #picture img { box-sizing: border-box; padding-top: 28px; } /* the label */
#gallery .grid-wrap { overflow: auto; max-height: none; }
"""


def launch(model, folder, host, port):
    """Opens the page of a generation.Model; returns (its address, wait until it ends).

    folder: for the examples. Raises OSError where the port is taken.
    """
    blocks = layout(model, pathlib.Path(folder))
    blocks.queue(default_concurrency_limit=1)
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        show_error=True,
        share=False,
        ssr_mode=False,
        run_history=False,
        max_file_size="50mb",
        footer_links=["gradio", "api"],
        theme=gr.themes.Default(primary_hue="blue", **FONTS),
        css=CSS,
    )
    return address, blocks.block_thread


def layout(model, folder):
    """The gr.Blocks of a generation.Model."""
    config = model.config
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=KEPT) as blocks:
        gr.Markdown(f"# {TITLE}\n{_about(config)}")
        with gr.Row():
            with gr.Column(scale=5):
                parts = _words()
                button = gr.Button("Draw", variant="primary", elem_id="draw")
                if config.control.hints:
                    controls, shown = _control(config.control.hints)
                    parts |= controls
                parts |= _settings(config)
            with gr.Column(scale=6):
                gallery, seed = _results()
                _examples(config, parts, folder)
        answer = _answer(model, parts, folder)
        told = {"inputs": set(parts.values()), "outputs": [gallery, seed]}
        told |= AS_IT_IS | {"api_name": "draw"}
        gr.on([button.click, parts["prompt"].submit], answer, **told)
        if config.control.hints:
            _preview(config, parts, shown, folder)
    return blocks


def _about(config):
    """What the page says of its model."""
    size, heard = config.data.image_size, ", ".join(config.control.hints)
    return (
        f"Pictures of {size} x {size} pixels by prompt; hints that are heard: "
        f"{heard or 'none'}. The first ones of another kind of hint or number of steps "
        "wait for a program to be compiled."
    )


def _words():
    prompt = gr.Textbox(label="Prompt", lines=2, max_lines=2, elem_id="prompt")
    negative = gr.Textbox(label="Negative prompt", max_lines=1, elem_id="negative")
    return {"prompt": prompt, "negative": negative}


def _control(kinds):
    """({field of webpage.Asked: component}, the preview)."""
    with gr.Row(equal_height=True):
        sources = ["upload", "clipboard"]
        picture = gr.Image(
            label="Control picture", sources=sources, height=240, elem_id="picture"
        )
        shown = gr.Image(
            label="Hint as the model gets it",
            format="png",
            buttons=["download", "fullscreen"],
            interactive=False,
            height=240,
            elem_id="hint",
        )
    with gr.Row():
        kind = gr.Radio(list(kinds), value=kinds[0], label="Kind of hint")
        ways = [(said, way) for way, said in WAYS.items()]
        way = gr.Radio(ways, value="ready", label="What the picture is", elem_id="way")
    with gr.Row(visible=False) as row:
        low = _slider("low", 100, "Canny, low", 1)
        high = _slider("high", 200, "Canny, high", 1)
    with gr.Row():
        strength = _slider("strength", 1, "Control strength", 0.05)
        names = [(WEIGHTINGS.get(name, name), name) for name in control.WEIGHTINGS]
        weighting = gr.Radio(names, value="even", label="What guidance hears of it")

    def seen(kind, way):
        return gr.update(visible=(kind, way) == ("canny", "find"))

    gr.on([kind.change, way.change], seen, [kind, way], row, api_visibility="private")
    parts = {"picture": picture, "kind": kind, "way": way, "low": low, "high": high}
    return parts | {"strength": strength, "weighting": weighting}, shown


def _settings(config):
    ranges = webpage.ranges(config)
    with gr.Row():
        told = config.sample.scale, "Guidance scale", 0.1, ranges["scale"]
        scale = _slider("scale", *told)
        told = config.sample.steps, "Steps", 1, ranges["steps"]
        steps = _slider("steps", *told)
    with gr.Row():
        seed = gr.Number(-1, label="Seed (-1: any)", precision=0, elem_id="seed")
        count = _slider("n", webpage.BATCH, "Pictures", 1)
    return {"scale": scale, "steps": steps, "seed": seed, "n": count}


def _slider(name, value, label, step, ends=None):
    low, high = ends or webpage.RANGES[name]
    precision = 0 if step == 1 else None
    told = dict(step=step, precision=precision, label=label, elem_id=name)
    return gr.Slider(low, high, value, **told)


def _results():
    gallery = gr.Gallery(
        show_label=False,  # it would lie on the first picture
        columns=3,
        object_fit="contain",
        format="png",
        elem_id="gallery",
    )
    told = dict(interactive=False, elem_id="drawn_seed")
    seed = gr.Textbox(label="Seed of these pictures", **told)
    return gallery, seed


def _examples(config, parts, folder):
    """Prompts, and hints drawn now: gradio wants them as files."""
    kind, pairs = webpage.examples(config)
    inputs, rows = [parts["prompt"]], [[prompt] for prompt, _ in pairs]
    if kind:
        inputs = [parts[name] for name in ("picture", "prompt", "kind", "way")]
        for number, (_, hint) in enumerate(pairs):
            path = folder / f"{kind}_{number}.png"
            pictures.save_png(path, hint)
            rows[number] = [str(path), *rows[number], kind, "ready"]
    gr.Examples(
        rows,
        inputs,
        label="Examples",
        cache_examples=False,
        visible_columns=[0, 1][: len(inputs)],
        elem_id="examples",
        api_visibility="private",
    )


def _asked(values, parts, folder):
    """The webpage.Asked of what stands in the form; what is empty is the default."""
    told = {name: values[part] for name, part in parts.items()}
    told = {name: value for name, value in told.items() if value is not None}
    if "picture" in told:
        # By hand a request may name any file of this machine; gradio lets some pass.
        path = pathlib.Path(told["picture"]["path"]).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(f"{path.name} was not uploaded here")
        told["picture"] = str(path)
    return webpage.Asked(**told)


def _told(error):
    """What gradio shows of an error, and the server's log does not."""
    words = html.escape(str(error), quote=False)  # there may be a prompt in them
    return gr.Error(words, print_exception=False)


def _warn(words):
    gr.Warning(html.escape(words, quote=False))


def _answer(model, parts, folder):
    """What the button does."""

    def answer(values, progress=gr.Progress()):  # noqa: B008, gradio looks for it there
        progress(0, desc="drawing")
        try:
            asked = _asked(values, parts, folder)
            drawn = webpage.draw(
                model, asked, _warn, lambda done: progress((done, asked.n))
            )
        except cli.MISTAKES as error:
            raise _told(error) from error
        first = [] if drawn.hint is None else [(drawn.hint, "hint")]
        rest = [(x, str(number)) for number, x in enumerate(drawn.pictures)]
        return first + rest, str(drawn.seed)

    return answer


def _preview(config, parts, shown, folder):
    """The hint is shown whenever what it is made of changes."""
    names = ("picture", "kind", "way", "low", "high")
    made_of = {name: parts[name] for name in names}

    def look(values):
        try:
            hint = webpage.hint(config, _asked(values, made_of, folder))
        except cli.MISTAKES as error:
            yield None  # that of another picture would stay
            raise _told(error) from error
        yield hint

    gr.on(
        [part.change for part in made_of.values()],
        look,
        inputs=set(made_of.values()),
        outputs=shown,
        show_progress="hidden",
        trigger_mode="always_last",
        api_name="hint",
        **AS_IT_IS,
    )
