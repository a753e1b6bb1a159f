"""The tiny text-to-image task as a config file, for tests of the commands.

The embedding of the words is large enough that parallel.fsdp splits it.
"""

import helpers

from ldm_jax import paths


def get_config():
    c = helpers.tiny_config()
    vocabulary = paths.resolve(c.cond_stage.vocabulary).read_text(encoding="utf-8")
    c.cond_stage.update(vocab=len(vocabulary.splitlines()), width=256)
    return c
