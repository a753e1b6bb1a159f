"""Teaches a text encoder where things are, from captions and boxes, without pictures.

python -m ldm_jax.demo.teach LATENTS WEIGHTS OUT [STEPS]

LATENTS is a folder by ldm_jax.encode, of which the captions and boxes are read,
WEIGHTS a text-to-image model by ldm_jax.export, and OUT the same with the text encoder
taught. Users never run it.

Why: trained by diffusion alone, the demo drew things left or right of each other by
chance after 800,000 pictures. A UNet gains nothing by listening to an encoder that does
not tell the sides apart, nor the encoder by telling them to a UNet that does not
listen. This makes the first step: every word piece that names a thing says, in three
fixed directions of the encoder's output, where its box is and how large. What the
encoder said before is kept as well as may be, for the UNet that knows it.
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from ldm_jax import config_saved, system, tokenizers
from ldm_jax.data import latents, sprites
from ldm_jax.weights import own

BATCH = 64
STEPS = 1_600
RATE = 1e-3
KEPT = 0.1  # how much a change of what the encoder said before counts
LENGTH = 0.3  # of the directions: the shorter, the larger what is said in them
# Of a box's middle (across, down) and longer side: subtracted, then divided by.
MEANS, SPREADS = (0.5, 0.65, 0.35), (0.22, 0.2, 0.15)


def names():
    """What captions call the things of `sprites` in an example, a person last."""
    loaded = sprites.load()
    return [*(loaded.names[cell] for cell in loaded.scene_indices), "person"]


def targets(tokens, things, boxes):
    """Where each token's thing is: float32 [length, 3], and bool [length]: it has one.

    tokens: int [length] of a caption; things: the tokens of each thing's name, a list
    of lists; boxes: [things, 4]. Longer names go first, so that the taxi in "an
    oncoming taxi" is not taken for a taxi.
    """
    where = np.zeros((len(tokens), 3), np.float32)
    named = np.zeros(len(tokens), bool)
    tokens = list(tokens)
    for k in sorted(range(len(things)), key=lambda k: -len(things[k])):
        x0, y0, x1, y1 = boxes[k]
        box = (x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, y1 - y0)
        size = len(things[k])
        for i in range(len(tokens) - size + 1):
            if tokens[i : i + size] == things[k] and not named[i : i + size].any():
                where[i : i + size] = (np.array(box) - MEANS) / SPREADS
                named[i : i + size] = True
    return where, named


def lessons(examples, tokenizer):
    """(tokens [n, length], where [n, length, 3], named [n, length]) of the scenes."""
    pieces = [row[row > 0][1:-1].tolist() for row in tokenizer(names())]
    rows = []
    for example in examples:
        there = example["sprites"] >= 0
        if there.sum() > 1:
            (tokens,) = tokenizer([example["caption"]])
            things = [pieces[thing] for thing in example["sprites"][there]]
            rows.append((tokens, *targets(tokens, things, example["boxes"][there])))
    return tuple(map(np.stack, zip(*rows, strict=True)))


def directions(width):
    """Three orthogonal directions [width, 3] of the encoder's output."""
    drawn = jax.random.normal(jax.random.key(1), (width, 3))
    return LENGTH * jnp.linalg.qr(drawn)[0]


def teach(encode, params, lessons, steps, seed=0):
    """Parameters that know, and the mean error of the last batch, in spreads squared.

    encode: (params, tokens [B, length]) -> [B, length, width].
    """
    before, tx = (
        params,
        optax.adam(
            optax.warmup_cosine_decay_schedule(0, RATE, min(50, steps // 2), steps)
        ),
    )

    def loss(params, tokens, where, named):
        said, once = encode(params, tokens), encode(before, tokens)
        wrong = jnp.sum((said @ directions(said.shape[-1]) - where) ** 2, axis=-1)
        wrong = jnp.sum(wrong * named) / jnp.sum(named)
        return wrong + KEPT * jnp.mean((said - once) ** 2), wrong

    @jax.jit
    def step(params, state, batch):
        (_, wrong), grads = jax.value_and_grad(loss, has_aux=True)(params, *batch)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state, wrong

    rng, state = np.random.default_rng(seed), tx.init(params)
    with tqdm.trange(steps, desc="steps") as bar:
        for _ in bar:
            rows = rng.integers(0, len(lessons[0]), BATCH)
            params, state, wrong = step(params, state, [part[rows] for part in lessons])
            bar.set_postfix(wrong=f"{wrong:.3f}", refresh=False)
    return params, float(wrong)


def main(folder, weights, out, steps=STEPS):
    params, saved, meta = own.load_weights(pathlib.Path(weights))
    config = config_saved.from_dict(saved)
    if config.task != "latent_diffusion" or config.cond_stage.kind != "text":
        raise ValueError(f"{weights} is no model with a text encoder of its own")
    condition = system.build(config).condition

    def encode(params, tokens):
        return condition({"cond_stage": params}, {"tokens": tokens}).context

    kept = latents.open_kept(folder, {})
    examples = (kept[i] for i in tqdm.trange(len(kept), desc="captions"))
    told = lessons(examples, tokenizers.load(config.cond_stage))
    taught, _ = teach(encode, params["cond_stage"], told, int(steps))
    params["cond_stage"] = jax.device_get(taught)
    own.save_weights(pathlib.Path(out), params, config.to_dict(), meta)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    main(*sys.argv[1:])
