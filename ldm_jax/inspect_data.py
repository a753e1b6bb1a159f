"""Draw what a model is given, after all transforms, on one sheet.

  python -m ldm_jax.inspect_data --config=configs/demo_text_to_image.py --out=sheet.png

The first pictures of the run's training, each with the text of its tokens (so that a
caption that is cut shows) and a panel for every map, box or joint in the batch. --keys
adds what the data set has and this model does not read: label, boxes, classes,
segmentation, instances, depth, joints, mask.
"""

import pathlib

from absl import flags

from ldm_jax import cli, inputs, inspection, pictures
from ldm_jax import config as config_lib
from ldm_jax import system as system_lib

CONFIG = cli.define_config()
OUT = flags.DEFINE_string("out", "sheet.png", "The picture to write.")
COUNT = flags.DEFINE_integer("count", 16, "How many examples.", lower_bound=1)
KEYS = flags.DEFINE_list("keys", [], "More keys of the examples, with commas.")


def main(argv):
    del argv
    config = config_lib.check(CONFIG.value)
    inputs.check(config)
    keys = (*system_lib.build(config).batch, *KEYS.value)
    batch = inspection.first_batch(config, keys, COUNT.value)
    sheet = inspection.sheet(batch, inspection.reader(config))
    pictures.save_png(OUT.value, sheet)
    print(inspection.summary(batch))
    print(f"{COUNT.value} examples: {pathlib.Path(OUT.value).absolute()}")


if __name__ == "__main__":
    cli.run(main)
