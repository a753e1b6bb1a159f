"""The web page: pictures by prompt, and by a hint where there is a control branch.

  bash launch/setup.sh requirements-web.txt
  python -m ldm_jax.demo

opens http://127.0.0.1:7860 on the weights and the branch that ship with the project.
Yours, several branches, and another port:

  python -m ldm_jax.demo --weights=model.safetensors --control=edges.safetensors \\
      --control=depth=d.safetensors --port=8000

Requests are served one after the other. What is uploaded and drawn is removed when the
page is closed (Ctrl-C). A seed and its settings draw the same pictures as those of
ldm_jax.sample: --seed, and the indices 0, 1, ...
"""

import os
import signal
import tempfile

from absl import flags

from ldm_jax import cli, generation, joining, paths, webpage

BRANCH = "demo:canny.safetensors"  # what hears hints of the embedded weights

WEIGHTS = cli.define_weights()
CONTROL = cli.define_control()
# Whoever reaches the page may put this machine to work and sends it files, with no
# password between: so it is this machine alone that does, unless somebody says more.
HOST = flags.DEFINE_string(
    "host",
    "127.0.0.1",
    "The address that is listened on; 0.0.0.0: all, and then anybody who reaches this "
    "machine may draw. From elsewhere `ssh -L 7860:127.0.0.1:7860` is safer.",
)
PORT = flags.DEFINE_integer("port", 7860, "Where it listens.", 1, 65_535)


def page():
    """The module that draws the page, or what is missing in words."""
    try:
        from ldm_jax.demo import page  # not at the top: gradio is an extra
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the web page needs {error.name}: bash launch/setup.sh "
            "requirements-web.txt installs it"
        ) from error
    return page


def branches():
    """Texts [HINT=]FILE: those named, or what ships for the embedded weights."""
    if CONTROL.value or WEIGHTS.value:
        return CONTROL.value
    return [BRANCH] if paths.resolve(BRANCH).is_file() else []


def main(argv):
    del argv
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    with tempfile.TemporaryDirectory(prefix="ldm_jax_web_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # which gradio reads when it is imported
        launch = page().launch
        heard = joining.with_branches(branches())
        told = None, None, WEIGHTS.value, None, heard  # no config, run or checkpoint
        model = generation.chosen(*told, webpage.check)
        address, wait = launch(model, folder, HOST.value, PORT.value)
        print(f"{address} (Ctrl-C ends)", flush=True)
        wait()


if __name__ == "__main__":
    cli.run(main)
