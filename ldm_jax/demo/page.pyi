"""How the web page looks, in gradio. No other module of ldm_jax imports it."""

import pathlib

import gradio as gr

from ldm_jax import cli, control, pictures, webpage

TITLE = "ldm_jax"
KINDS = "What the picture is"
WEIGHTINGS = {"guess": "guess mode", "resolution": "CFG resolution weighting"}
WAYS = {"ready": "a hint already", "find": "a picture to find it in"}
KEPT = 3600, 86_400  # seconds: every hour, files of more than a day are removed
# Fonts that are there: gradio's own would be fetched from Google.
FONTS = dict(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = """
.gradio-container { max-width: 1280px !important; margin: auto; }
#gallery img, #hint img, #examples img { image-rendering: pixelated; }
#gallery .thumbnail-item, #gallery .thumbnail-item img { width: 100%; height: 100%; }
"""

from gradio.events import Dependency

class Upload(gr.Image):
    """A picture's file, unread: what is wrong with it is told in the library's words.

    gradio has checked before that it is one that a visitor brought.
    """

    is_template = True  # to the browser it is an Image

    def preprocess(self, payload):
        return payload and payload.path
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component


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
        footer_links=["api", "gradio"],
        theme=gr.themes.Soft(**FONTS),
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
                if config.control.hints:
                    controls, shown = _control(config.control.hints)
                    parts |= controls
                parts |= _settings(config.sample)
            with gr.Column(scale=6):
                button = gr.Button("Draw", variant="primary", elem_id="draw")
                gallery, seed = _results(bool(config.control.hints))
                _examples(config, parts, folder)
        answer = _answer(model, parts)
        told = {"inputs": set(parts.values()), "outputs": [gallery, seed]}
        gr.on([button.click, parts["prompt"].submit], answer, **told, api_name="draw")
        if config.control.hints:
            _preview(config, parts, shown)
    return blocks


def _about(config):
    """What the page says of its model."""
    size, heard = config.data.image_size, ", ".join(config.control.hints)
    branches = f"its branches hear {heard}" if heard else "it hears no hints"
    return (
        f"Pictures of {size} x {size} pixels by prompt; {branches}. The first ones of "
        "another number of steps, and of a hint, wait for a program to be compiled."
    )


def _words():
    prompt = gr.Textbox(label="Prompt", lines=2, max_lines=2, elem_id="prompt")
    negative = gr.Textbox(label="Negative prompt", max_lines=1, elem_id="negative")
    return {"prompt": prompt, "negative": negative}


def _control(kinds):
    """({field of webpage.Asked: component}, the preview)."""
    with gr.Row(equal_height=True):
        sources = ["upload", "clipboard"]
        picture = Upload(
            label="Control picture", sources=sources, height=240, elem_id="picture"
        )
        shown = gr.Image(
            label="The hint, as the model is given it",
            format="png",
            interactive=False,
            height=240,
            elem_id="hint",
        )
    with gr.Row():
        kind = gr.Radio(list(kinds), value=kinds[0], label="Kind of hint")
        ways = [(said, way) for way, said in WAYS.items()]
        way = gr.Radio(ways, value="ready", label=KINDS, elem_id="way")
    with gr.Row(visible=False) as row:
        low = _slider("low", 100, "Canny: low threshold", 1)
        high = _slider("high", 200, "Canny: high threshold", 1)
    with gr.Row():
        strength = _slider("strength", 1, "Control strength", 0.05)
        names = [(WEIGHTINGS.get(name, name), name) for name in control.WEIGHTINGS]
        weighting = gr.Radio(names, value="even", label="What guidance hears of it")

    def seen(kind, way):
        return gr.update(visible=(kind, way) == ("canny", "find"))

    gr.on([kind.change, way.change], seen, [kind, way], row, api_visibility="private")
    parts = {"picture": picture, "kind": kind, "way": way, "low": low, "high": high}
    return parts | {"strength": strength, "weighting": weighting}, shown


def _settings(sample):
    with gr.Row():
        scale = _slider("scale", sample.scale, "Guidance scale", 0.1)
        steps = _slider("steps", sample.steps, "Steps", 1)
    with gr.Row():
        seed = gr.Number(-1, label="Seed (-1: any)", precision=0, elem_id="seed")
        count = _slider("n", webpage.BATCH, "Pictures", 1)
    return {"scale": scale, "steps": steps, "seed": seed, "n": count}


def _slider(name, value, label, step):
    low, high = webpage.RANGES[name]
    precision = 0 if step == 1 else None
    told = dict(step=step, precision=precision, label=label, elem_id=name)
    return gr.Slider(low, high, value, **told)


def _results(hinted):
    gallery = gr.Gallery(
        label="The hint, then the pictures" if hinted else "Pictures",
        columns=3,
        object_fit="contain",
        format="png",
        height=560,
        elem_id="gallery",
    )
    seed = gr.Textbox(label="Seed of these pictures", elem_id="drawn_seed")
    seed.interactive = False
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


def _asked(values, parts):
    """The webpage.Asked of what stands in the form; what is empty is the default."""
    told = {name: values[part] for name, part in parts.items()}
    return webpage.Asked(**{k: v for k, v in told.items() if v is not None})


def _answer(model, parts):
    """What the button does."""

    def answer(values, progress=gr.Progress()):  # noqa: B008, gradio looks for it there
        asked = _asked(values, parts)

        def tick(done):
            progress((done, asked.n), desc="drawing", unit="pictures")

        tick(0)
        try:
            drawn = webpage.draw(model, asked, gr.Warning, tick)
        except cli.MISTAKES as error:
            raise gr.Error(str(error), print_exception=False) from error
        shown = [(x, f"{number}") for number, x in enumerate(drawn.pictures)]
        if drawn.hint is not None:
            shown = [(drawn.hint, "hint"), *shown]
        return shown, str(drawn.seed)

    return answer


def _preview(config, parts, shown):
    """The hint is shown whenever what it is made of changes."""
    names = ("picture", "kind", "way", "low", "high")
    made_of = {name: parts[name] for name in names}

    def look(values):
        try:
            hint = webpage.hint(config, _asked(values, made_of))
        except cli.MISTAKES as error:
            yield None  # that of another picture would stay
            raise gr.Error(str(error), print_exception=False) from error
        yield hint

    gr.on(
        [part.change for part in made_of.values()],
        look,
        inputs=set(made_of.values()),
        outputs=shown,
        show_progress="hidden",
        trigger_mode="always_last",
        api_name="hint",
    )