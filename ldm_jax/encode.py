"""Keep the latents of a data set's pictures, so that training need not encode them.

  python -m ldm_jax.encode --config=configs/demo_text_to_image.py --n=60000 \\
      --out=runs/latents
  python -m ldm_jax.train --config=configs/demo_text_to_image.py \\
      --config.data.latents=runs/latents --workdir=runs/text

The first --n pictures go through the config's first stage, once. What it says of them
is kept with their captions and all else that is not of the pictures' size; training
draws from it at every step as it would from the pictures, and walks over the --n again
and again. latents.json in the folder says what decides its content, and a config or a
first stage of another is refused. Validation still sees held-out pictures.

Pictures that are read (data.name "packed" or "tfds") are cut and flipped as the config
says, but once: each has the one crop and the one flip that are drawn for it here. Their
layouts know of both. Without --n it is all of them.

--texts also keeps what a text encoder that is not trained says of the captions, as
Stable Diffusion's: it is read from train.init, and training with
--config.data.texts=True runs it no more, but for the null of guidance, validation
and pictures. Of 77 tokens of 768 numbers that is 118 kB a picture in float16.

The same command again writes the shards that are missing, after `kill -9` too; with
--distributed each of several hosts writes its part of the folder, which all must see.
"""

from absl import flags
import jax
import tqdm

from ldm_jax import cli, encoding, sharding
from ldm_jax import config as config_lib

CONFIG = cli.define_config()
OUT = flags.DEFINE_string("out", None, "Folder for the latents.", required=True)
N = flags.DEFINE_integer(
    "n",
    None,
    "How many pictures, from the first on. Of those that are read: all.",
    lower_bound=1,
)
SPLIT = flags.DEFINE_enum("split", "train", ["train", "heldout"], "Of the data set.")
SHARD = flags.DEFINE_integer(
    "shard",
    1000,
    "Pictures in a file. Training has all files open: for millions take more.",
    lower_bound=1,
)
DTYPE = flags.DEFINE_enum(
    "dtype", "float16", ["float16", "float32"], "How the latents' numbers are kept."
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    50,
    "Pictures at once, on one host; rounded up to a multiple of its devices.",
    lower_bound=1,
)
TEXTS = flags.DEFINE_bool(
    "texts", False, "Keep what the text encoder says of the captions, too."
)
start_hosts = cli.define_hosts()


def progress(total):
    return tqdm.tqdm(total=total, unit="picture", disable=jax.process_index() != 0)


def main(argv):
    del argv
    start_hosts()
    told = encoding.encode(
        config_lib.check(CONFIG.value),
        OUT.value,
        N.value,
        SPLIT.value,
        SHARD.value,
        DTYPE.value,
        sharding.whole_batch(BATCH_SIZE.value, jax.local_device_count()),
        progress,
        TEXTS.value,
    )
    if jax.process_count() > 1:
        cli.say(f"waiting for the shards of the other hosts in {OUT.value}")
        encoding.wait_for_all(OUT.value)
    there = told["pictures"] - told["written"] if jax.process_count() == 1 else 0
    cli.say(
        f"{told['written']} pictures in {told['seconds']:.1f} s: {told['files']} files "
        f"of {told['bytes']} bytes in {OUT.value}"
        + (f"; {there} pictures were there" if there else "")
    )


if __name__ == "__main__":
    cli.run(main)
