"""What a config asks for, before anything is allocated: one JSON object.

  python -m ldm_jax.plan --config=configs/class_to_image.py
  python -m ldm_jax.plan --config=configs/text_to_image.py --params

params: how many parameters each part has. `unused` are those that a released file holds
and nothing reads, as the layer back to the vocabulary of text encoders: published sizes
may count them, `total` does not. batch: the shapes of one global batch of training.
--params prints the counts alone.
"""

import json

from absl import flags

from ldm_jax import cli, planning
from ldm_jax import config as config_lib

CONFIG = cli.define_config()
PARAMS = flags.DEFINE_bool("params", False, "Print the parameter counts alone.")


def main(argv):
    del argv
    config = config_lib.check(CONFIG.value)
    told = planning.params(config)
    if not PARAMS.value:
        told = {"params": told, "batch": planning.batch(config)}
    print(json.dumps(told))


if __name__ == "__main__":
    cli.run(main)
