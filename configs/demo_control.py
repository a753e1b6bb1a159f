"""A ControlNet on two cores: scenes that obey a hint, over the text model that ships.

  python -m ldm_jax.train --config=configs/demo_control.py:canny --workdir=runs/canny
  python -m ldm_jax.sample --config=configs/demo_control.py:canny --workdir=runs/canny \
      --hint=edges.png --prompt="a fox to the left of a hut on snow"
  python -m ldm_jax.evaluate --config=configs/demo_control.py:canny \
      --workdir=runs/canny --task=control

Any key of data.hints.HINTS that scenes have: canny, scribble, segments, depth,
pose, ... As in the paper (Zhang et al., 2023) the text model is locked and half of the
captions are empty; unlike there Muon trains, as it did the text model.
What came out is in docs/control.md.
"""

from ldm_jax import config

VARIANTS = ("canny", "scribble", "segments", "depth", "pose")


def get_config(hint="canny"):
    c = config.demo(steps=1_500)
    c.data.name = "emoji_people" if hint == "pose" else "emoji_scenes"
    c.cond_stage.update(kind="text", drop=0.5, vocabulary="demo:vocab.txt", vocab=1067)
    c.cond_stage.update(length=80, width=128, depth=2, heads=4, head_channels=32)
    c.cond_stage.pooled = True
    c.control.update(hints=(hint,), channels=(16, 32, 64))
    c.train.update(init="demo:text_to_image.safetensors", trainable=(hint,))
    c.train.update(validate_every=250, picture_every=250)
    c.train.update(checkpoint_every=125, keep_checkpoints=20)  # the docs show the way
    c.sample.scale = 3.0
    return config.check(c)
