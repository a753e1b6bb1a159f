"""THE SEAM: what every sampler and every score-based loss asks of a model.

    denoise(params, z_t, t, cond, rng=None) -> Pred(z_0, eps)

    params  dict by role; the network is params["unet"]
    z_t     [B, h, w, c] noisy latent
    t       [B] float32, 0 .. T - 1; fractions allowed
    cond    Cond, what the denoiser is told
    rng     a key switches dropout on; None, as when sampling, is deterministic

`from_unet` makes the first one. Everything else is a wrapper: a function that
takes a denoise and returns a denoise, so that guidance, control, in-painting and
what is built on them compose by nesting, and no sampler knows of any of them.

Both fields of Pred come from the one network output, because neither is enough:
dividing eps back into z_0 fails where alpha_bar is 0, and z_0 into eps where it
is 1. They satisfy

    z_t = sqrt(alpha_bar) z_0 + sqrt(1 - alpha_bar) eps.                     (*)
"""

from flax import struct
import jax
import jax.numpy as jnp

from ldm_jax import schedule as schedule_lib


@struct.dataclass
class Cond:
    """What a denoiser may be told. A port that is not used is None."""

    context: jax.Array | None = None  # [B, L, D] tokens for cross-attention
    vector: jax.Array | None = None  # [B, D] added to the time embedding
    concat: jax.Array | None = None  # [B, h, w, C] stacked on z_t
    hints: dict | None = None  # name -> [B, H, W, 3] control images
    strengths: dict | None = None  # name -> [B, connections], of what a hint adds: 1s
    residuals: list | None = None  # one for each skip of the UNet, then the middle


@struct.dataclass
class Pred:
    """The clean latent and the noise that a denoiser sees in z_t, float32."""

    z_0: jax.Array  # [B, h, w, c]
    eps: jax.Array  # [B, h, w, c]


def from_unet(unet, schedule, predicts="eps"):
    """The denoise of a network that predicts 'eps', 'v' or 'z_0'.

    Raises ValueError for 'eps' on a schedule that reaches alpha_bar = 0.
    """
    schedule_lib.check_prediction(schedule, predicts)

    def denoise(params, z_t, t, cond, rng=None):
        train = rng is not None
        output = unet.apply(
            {"params": params["unet"]},
            seen(z_t, cond),
            t,
            cond.context,
            cond.vector,
            cond.residuals,
            train,  # positional: nn.remat breaks on a keyword
            rngs={"dropout": rng} if train else None,
        )
        return Pred(*schedule_lib.solve(schedule, predicts, output, z_t, t))

    return denoise


def seen(z_t, cond):
    """What a network sees: z_t, and the planes that are stacked on it."""
    return z_t if cond.concat is None else jnp.concatenate([z_t, cond.concat], axis=-1)


def residuals(branch, name):
    """(params, z_t, t, cond, rng=None) -> what the branch params[name] adds: a list.

    branch: a ControlNet, which hears cond.hints[name]. Each is multiplied by its column
    of cond.strengths[name], if that is there.
    """

    def added(params, z_t, t, cond, rng=None):
        train = rng is not None
        outputs = branch.apply(
            {"params": params[name]},
            seen(z_t, cond),
            t,
            cond.hints[name],
            cond.context,
            cond.vector,
            train,
            rngs={"dropout": rng} if train else None,
        )
        if not cond.strengths:
            return outputs
        columns = jnp.moveaxis(cond.strengths[name], 1, 0)
        return [
            x * schedule_lib.per_picture(strength, x).astype(x.dtype)
            for x, strength in zip(outputs, columns, strict=True)
        ]

    return added


def with_control(denoise, branch, name):
    """Adds what a ControlNet hears in the hint of that name; nest it for several.

    Without such a hint it is the plain denoise.
    """
    listen = residuals(branch, name)

    def controlled(params, z_t, t, cond, rng=None):
        if not cond.hints or name not in cond.hints:
            return denoise(params, z_t, t, cond, rng)
        added = listen(params, z_t, t, cond, rng)
        if cond.residuals is not None:
            added = [a + b for a, b in zip(cond.residuals, added, strict=True)]
        return denoise(params, z_t, t, cond.replace(residuals=added), rng)

    return controlled


def heard(cond, strengths, half):
    """The Cond with strengths[name][half], [connections], of every hint that it has."""
    if not cond.hints:
        return cond

    def rows(name):
        loud = strengths[name][half]
        return jnp.broadcast_to(loud, (len(cond.hints[name]), len(loud)))

    return cond.replace(strengths={name: rows(name) for name in cond.hints})


def with_known(denoise, schedule, z_known, hole):
    """Where there is no hole, z_0 is known: in-painting by any network.

    z_known [B, h, w, c], clean; hole bool [B, h, w, 1]. The known part follows from (*)
    with the noise that it has, so that every sampler walks it straight to z_known, and
    what is in the hole always sees it with the noise of its own time. (The originals
    replace z_t before each step instead, by z_known with noise that is drawn anew.)
    """

    def known(params, z_t, t, cond, rng=None):
        pred = denoise(params, z_t, t, cond, rng)
        signal, noise = schedule_lib.signal_and_noise(schedule, t, z_t)
        eps = (z_t - signal * z_known) / noise
        return Pred(jnp.where(hole, pred.z_0, z_known), jnp.where(hole, pred.eps, eps))

    return known


def stack(a, b):
    """Two batches as one."""
    return jnp.concatenate([a, b])


def check_null(cond, null):
    """Raises ValueError naming the ports in which null is not shaped as cond."""
    for port in Cond.__dataclass_fields__:
        told, untold = (jax.tree.map(jnp.shape, getattr(c, port)) for c in (cond, null))
        if told != untold:
            raise ValueError(
                f"null.{port} must be shaped as cond.{port}: {untold} is not {told}"
            )
