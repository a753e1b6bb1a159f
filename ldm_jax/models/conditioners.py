"""What turns a batch into a `Cond`: one record of functions per conditioning.

Each maker takes the knobs of `config.cond_stage` that it names, and the image_size of
`config.data` if it names that.
"""

from collections.abc import Callable
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import denoise, names
from ldm_jax.models import clip as clip_lib
from ldm_jax.models import layers
from ldm_jax.models import text as text_lib

NEGATIVE = "negative_"  # names of a batch that the null shall say


@dataclasses.dataclass(frozen=True)
class Conditioner:
    """`null` gives a batch of the same shapes that says "no condition"; or is None."""

    init: Callable  # (rng) -> params
    apply: Callable  # (params, batch) -> Cond
    null: Callable | None  # (batch) -> batch
    inputs: dict  # what it reads of a batch: name -> (shape of one example, dtype)


def none():
    """No condition: the unconditional models."""
    return Conditioner(
        init=lambda rng: {},
        apply=lambda params, batch: denoise.Cond(),
        null=None,
        inputs={},
    )


def _null(empty):
    """The `null` of texts: the row `empty`, or the batch's negative prompts."""

    def null(batch):
        nothing = {"tokens": jnp.broadcast_to(empty, batch["tokens"].shape)}
        if "emphasis" in batch:
            nothing["emphasis"] = jnp.ones_like(batch["emphasis"])
        given = [key for key in batch if key.startswith(NEGATIVE)]
        negative = {key.removeprefix(NEGATIVE): batch[key] for key in given}
        return {**batch, **nothing, **negative}

    return null


def text(
    *, vocab, length, width, depth, heads, head_channels, pooled, null_tokens, dtype
):
    """Captions as word pieces through a BERT-style transformer, to `context`.

    pooled: the first token's output goes to `vector` too, which reaches every
    residual block, as SDXL's pooled text does; LDM's text models go without.
    `null_tokens` is the empty caption before padding with zeros.
    """
    net = text_lib.TextTransformer(
        vocab, length, width, depth, heads, head_channels, jnp.dtype(dtype)
    )
    empty = jnp.zeros(length, jnp.int32).at[: len(null_tokens)].set(null_tokens)

    def init(rng):
        return net.init(rng, jnp.zeros((1, length), jnp.int32))["params"]

    def apply(params, batch):
        context = net.apply({"params": params}, batch["tokens"])
        vector = context[:, 0] if pooled else None
        return denoise.Cond(context=context, vector=vector)

    return Conditioner(init, apply, _null(empty), {"tokens": ((length,), "int32")})


def layout(*, vocab, length, width, depth, heads, head_channels, dtype):
    """Classes and boxes as tokens (data.layout) through the same transformer.

    The null, which the originals have not, is a row of nothing but the last token,
    "unused".
    """
    net = text_lib.TextTransformer(
        vocab, length, width, depth, heads, head_channels, jnp.dtype(dtype)
    )

    def init(rng):
        return net.init(rng, jnp.zeros((1, length), jnp.int32))["params"]

    def apply(params, batch):
        return denoise.Cond(context=net.apply({"params": params}, batch["tokens"]))

    def null(batch):
        return {**batch, "tokens": jnp.full_like(batch["tokens"], vocab - 1)}

    return Conditioner(init, apply, null, {"tokens": ((length,), "int32")})


# SDXL's micro-conditioning (Podell et al., 2023): how many numbers each brings.
MICRO = {"original_size": 2, "crop": 2, "target_size": 2, "aesthetic": 1}
MICRO_WIDTH = 256  # of the sinusoids of each number
# What SDXL is told of a whole, uncut picture; the score is its refiner's default.
AESTHETIC = 6.0


def sizes(micro, image_size, aesthetic=AESTHETIC):
    """The numbers of cond_stage.micro for a picture that was not cut: float32 [n]."""
    told = {
        "original_size": (image_size, image_size),
        "crop": (0, 0),
        "target_size": (image_size, image_size),
        "aesthetic": (aesthetic,),
    }
    return np.array([x for name in micro for x in told[name]], np.float32)


def clip(
    *, encoders, skip, final_norm, vocab, pooled, micro, length, null_tokens, dtype
):
    """Captions through CLIP's text encoders, side by side in `context`.

    pooled: the last encoder's pooled text goes to `vector`, and after it the sinusoids
    of the numbers that `micro` names (keys of MICRO). A length of several times 77 is
    as many texts, encoded one by one, whose sequences follow each other. A null of no
    tokens is SDXL's: zeros in place of what the encoders say.

    A batch may bring `emphasis` [B, length], factors of the tokens' outputs.
    """
    shapes = encoders_of(encoders, vocab)
    if pooled and not shapes[encoders[-1]].projection:
        raise ValueError(f"cond_stage.pooled: {encoders[-1]!r} has no pooled text")
    for name, left_out in zip(encoders, skip, strict=True):
        if left_out >= shapes[name].depth:
            raise ValueError(
                f"cond_stage.skip {left_out} must be less than the depth of {name!r}, "
                f"which has {shapes[name].depth} blocks"
            )
    nets = {
        name: clip_lib.TextEncoder(
            shapes[name],
            skip[i],
            final_norm[i],
            jnp.dtype(dtype),
        )
        for i, name in enumerate(encoders)
    }
    pad = clip_lib.END if null_tokens else -1  # a row of -1 is no text at all
    empty = jnp.full(clip_lib.LENGTH, pad, jnp.int32)
    empty = empty.at[: len(null_tokens)].set(jnp.asarray(null_tokens, jnp.int32))
    empty = jnp.tile(empty, length // clip_lib.LENGTH)
    numbers = sum(names.pick(MICRO, name) for name in micro)

    def init(rng):
        tokens = jnp.zeros((1, clip_lib.LENGTH), jnp.int32)
        return {name: net.init(rng, tokens)["params"] for name, net in nets.items()}

    def apply(params, batch):
        tokens = batch["tokens"]
        rows, told = len(tokens), tokens[:, :1] >= 0
        chunks = tokens.reshape(-1, clip_lib.LENGTH)
        said = [
            net.apply({"params": params[name]}, chunks) for name, net in nets.items()
        ]
        sequences = [sequence for sequence, _ in said]
        if "emphasis" in batch:
            factors = batch["emphasis"].reshape(chunks.shape)
            sequences = [emphasised(sequence, factors) for sequence in sequences]
        context = jnp.concatenate(sequences, axis=-1).reshape(rows, length, -1)
        context = jnp.where(told[..., None], context, 0.0)
        if not pooled:
            return denoise.Cond(context=context)
        pool = said[-1][1].reshape(rows, length // clip_lib.LENGTH, -1)[:, 0]
        parts = [jnp.where(told, pool, 0.0)]
        if numbers:
            embed = layers.timestep_embedding(batch["micro"].reshape(-1), MICRO_WIDTH)
            parts.append(embed.reshape(rows, -1))
        return denoise.Cond(context=context, vector=jnp.concatenate(parts, axis=-1))

    inputs = {"tokens": ((length,), "int32")}
    if numbers:
        inputs["micro"] = ((numbers,), "float32")
    return Conditioner(init, apply, _null(empty), inputs)


def encoders_of(encoders, vocab):
    """{name: Encoder} of keys of clip.ENCODERS, with a vocabulary of that size."""
    shapes = {name: names.pick(clip_lib.ENCODERS, name) for name in encoders}
    return {
        name: dataclasses.replace(shape, vocab=vocab) for name, shape in shapes.items()
    }


def emphasised(context, factors):
    """context [B, L, D] times factors [B, L], the mean of each row kept as it was.

    The web UIs' reading of (word:1.2): of each encoder and each 77 tokens alone.
    """
    louder = context * factors[..., None]
    before, after = (jnp.mean(x, axis=(1, 2), keepdims=True) for x in (context, louder))
    same = jnp.all(factors == 1, axis=-1)[:, None, None]
    return jnp.where(same, context, louder * (before / after))


def label(*, classes, width):
    """A class number as the one token of `context`; the last class is the null."""
    net = nn.Embed(classes, width)

    def init(rng):
        return {"classes": net.init(rng, jnp.zeros(1, jnp.int32))["params"]}

    def apply(params, batch):
        variables = {"params": params["classes"]}
        return denoise.Cond(context=net.apply(variables, batch["label"][:, None]))

    def null(batch):
        return {**batch, "label": jnp.full_like(batch["label"], classes - 1)}

    return Conditioner(init, apply, null, {"label": ((), "int32")})


def segmentation(*, classes, width, stages, image_size):
    """A map of classes, shrunk by 2^stages, as `width` planes of `concat`.

    LDM's SpatialRescaler: one plane per class, the mean of each square of pixels, then
    a matrix without bias.
    """
    net = nn.Dense(width, use_bias=False, kernel_init=layers.torch_init)

    def init(rng):
        params = net.init(rng, jnp.zeros((1, classes)))["params"]
        return {"channel_mapper": params}

    def apply(params, batch):
        planes = jax.nn.one_hot(batch["segmentation"], classes)
        for _ in range(stages):
            planes = layers.mean_down(planes)
        variables = {"params": params["channel_mapper"]}
        return denoise.Cond(concat=net.apply(variables, planes))

    inputs = {"segmentation": ((image_size, image_size), "uint8")}
    return Conditioner(init, apply, None, inputs)


def low_res(*, stages, image_size):
    """The picture that is to be enlarged by 2^stages: its pixels as planes."""
    side = image_size // 2**stages

    def apply(params, batch):
        return denoise.Cond(concat=batch["low_res"] / 127.5 - 1.0)

    inputs = {"low_res": ((side, side, 3), "uint8")}
    return Conditioner(lambda rng: {}, apply, None, inputs)


CONDITIONERS = {
    "none": none,
    "text": text,
    "clip": clip,
    "layout": layout,
    "label": label,
    "segmentation": segmentation,
    "low_res": low_res,
}
