"""What turns a batch into a `Cond`: one record of functions per conditioning."""

from collections.abc import Callable
import dataclasses

import jax.numpy as jnp

from ldm_jax import denoise
from ldm_jax.models import text as text_lib


@dataclasses.dataclass(frozen=True)
class Conditioner:
    """`null` gives a batch of the same shapes that says "no condition"."""

    init: Callable  # (rng) -> params
    apply: Callable  # (params, batch) -> Cond
    null: Callable  # (batch) -> batch
    inputs: dict  # what it reads of a batch: name -> (shape of one example, dtype)


def none():
    """No condition: the unconditional models."""
    return Conditioner(
        init=lambda rng: {},
        apply=lambda params, batch: denoise.Cond(),
        null=lambda batch: batch,
        inputs={},
    )


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

    def null(batch):
        tokens = batch["tokens"]
        return {**batch, "tokens": jnp.broadcast_to(empty, tokens.shape)}

    return Conditioner(init, apply, null, {"tokens": ((length,), "int32")})


CONDITIONERS = {"none": none, "text": text}
