"""Text to image smaller still, as a config file, for tests that start commands.

Few layers, as tracing them is what a start costs; the embedding of the words is large
enough that parallel.fsdp splits it.
"""

import helpers

from ldm_jax import paths


def get_config():
    c = helpers.tiny_config()
    vocabulary = paths.resolve(c.cond_stage.vocabulary).read_text(encoding="utf-8")
    c.cond_stage.update(vocab=len(vocabulary.splitlines()), width=256)
    c.first_stage.mid_attention = False
    c.unet.update(mult=(1,), depths=(1,), mid_depth=0)
    return c
