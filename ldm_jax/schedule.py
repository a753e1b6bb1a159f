"""The forward process: how a clean latent z_0 drowns in noise.

    z_t = sqrt(alpha_bar) z_0 + sqrt(1 - alpha_bar) eps        eps ~ N(0, 1)

alpha_bar falls from nearly 1 at t = 0 to nearly 0 at t = T - 1. A network may be
asked for eps, for z_0, or for v, which is the picture turned by a right angle:
with alpha_bar = cos^2, z_t is (z_0, eps) rotated onto the first axis and v onto
the second. Whatever it predicts, `solve` gives both z_0 and eps back.

Tables are float64 numpy, computed once; what runs inside a jitted function is
float32. (DDPM: Ho et al. 2020. v: Salimans and Ho 2022.)
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from ldm_jax import names


@dataclasses.dataclass(frozen=True, eq=False)  # eq of arrays would be no bool
class Schedule:
    """The noise added by each step, and the share of signal left after it."""

    betas: np.ndarray  # [T] float64
    alpha_bar: np.ndarray  # [T] float64, the cumulative product of 1 - betas

    @property
    def num_timesteps(self):
        return len(self.betas)


def from_betas(betas):
    """The schedule of any betas [T]. A last beta of 1 is zero terminal SNR."""
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or len(betas) < 2 or not np.all((betas > 0) & (betas <= 1)):
        raise ValueError("betas must be two or more numbers in (0, 1]")
    return Schedule(betas, np.cumprod(1.0 - betas))


def linear(num_timesteps, beta_start, beta_end, zero_terminal=False):
    """The schedule that latent diffusion calls linear.

    The trap: it is linear in sqrt(beta). A straight line in beta itself is another
    schedule, which loses the signal sooner (elsewhere that one is called linear,
    and this one scaled_linear). zero_terminal: see `without_signal_at_the_end`.
    """
    roots = np.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=np.float64)
    schedule = from_betas(roots**2)
    return without_signal_at_the_end(schedule) if zero_terminal else schedule


def without_signal_at_the_end(schedule):
    """The schedule with alpha_bar = 0 at T - 1 (Lin et al., 2023, algorithm 1).

    sqrt(alpha_bar) is shifted to end at 0 and stretched to begin where it began. Else
    a trace of the picture is in z_T (its mean brightness above all), which sampling
    starts without.
    """
    root = np.sqrt(schedule.alpha_bar)
    alpha_bar = (root[0] * (root - root[-1]) / (root[0] - root[-1])) ** 2
    return from_betas(1.0 - alpha_bar / np.append(1.0, alpha_bar[:-1]))


def min_snr(schedule, kind, gamma, t):
    """Weights [B] of squared errors at t [B] (Hang et al., 2023): float32.

    An error of z_0 counts min(SNR, gamma), SNR = alpha_bar / (1 - alpha_bar); what a
    network of this kind (eps, v, z_0) says differs from z_0 by a factor, whose square
    divides it.
    """
    signal = alpha_bar_at(schedule, t)
    noise = 1.0 - signal
    of_v = jnp.minimum(signal, gamma * noise)
    factors = {"eps": signal, "v": 1.0, "z_0": noise}
    return of_v / names.pick(factors, kind)


def alpha_bar_at(schedule, t):
    """alpha_bar at t, float32 of t's shape.

    Straight lines between the integers, where it is the table's own value to the
    bit; t is clamped to [0, T - 1].
    """
    table = jnp.asarray(schedule.alpha_bar, jnp.float32)
    t = jnp.clip(jnp.asarray(t, jnp.float32), 0, len(table) - 1)
    low = jnp.floor(t)
    here = low.astype(jnp.int32)
    left, right = table[here], table[jnp.minimum(here + 1, len(table) - 1)]
    return left + (t - low) * (right - left)


def per_picture(x, like):
    """[B] or [] -> [B, 1, 1, 1] or [1, 1, 1, 1], to multiply `like` [B, h, w, c]."""
    return jnp.reshape(jnp.asarray(x, jnp.float32), (-1,) + (1,) * (like.ndim - 1))


def signal_and_noise(schedule, t, like):
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar) at t [B], to multiply `like`."""
    alpha_bar = per_picture(alpha_bar_at(schedule, t), like)
    return jnp.sqrt(alpha_bar), jnp.sqrt(1.0 - alpha_bar)


def add_noise(schedule, z_0, eps, t):
    """A draw from q(z_t | z_0): z_0 and eps [B, h, w, c], t [B]."""
    signal, noise = signal_and_noise(schedule, t, z_0)
    return signal * z_0 + noise * eps


# What a network can predict: the target that it learns, and the two unknowns
# solved from z_t = signal z_0 + noise eps together with its output.
TARGETS = {
    "eps": lambda z_0, eps, signal, noise: eps,
    "v": lambda z_0, eps, signal, noise: signal * eps - noise * z_0,
    "z_0": lambda z_0, eps, signal, noise: z_0,
}
SOLUTIONS = {
    "eps": lambda eps, z_t, signal, noise: ((z_t - noise * eps) / signal, eps),
    "v": lambda v, z_t, signal, noise: (
        signal * z_t - noise * v,
        noise * z_t + signal * v,
    ),
    "z_0": lambda z_0, z_t, signal, noise: (z_0, (z_t - signal * z_0) / noise),
}


def target(schedule, kind, z_0, eps, t):
    """What a network of this kind ('eps', 'v', 'z_0') should say at t [B]."""
    signal, noise = signal_and_noise(schedule, t, z_0)
    return names.pick(TARGETS, kind)(z_0, eps, signal, noise)


def solve(schedule, kind, output, z_t, t):
    """(z_0, eps), float32, from what a network of this kind says of z_t at t [B]."""
    output, z_t = output.astype(jnp.float32), z_t.astype(jnp.float32)
    signal, noise = signal_and_noise(schedule, t, z_t)
    return names.pick(SOLUTIONS, kind)(output, z_t, signal, noise)


def check_prediction(schedule, kind):
    """Raises ValueError if `solve` cannot work for this kind on this schedule.

    Where alpha_bar is 0 there is no signal in z_t: the noise alone, however well
    predicted, says nothing about z_0. v and z_0 know it there.
    """
    names.pick(SOLUTIONS, kind)
    if kind == "eps" and schedule.alpha_bar[-1] == 0:
        raise ValueError(
            "this schedule ends with alpha_bar = 0, where a prediction of 'eps' "
            "does not determine z_0: predict 'v' or 'z_0'"
        )


def posterior_variance(schedule, posterior=0.0):
    """The variance of a reverse step, float64 [T].

    posterior = 0 is beta-tilde, right if the data were one point (0 at t = 0);
    1 is beta, right if the data were N(0, 1) (DDPM, section 3.2).
    """
    before = np.append(1.0, schedule.alpha_bar[:-1])
    tilde = schedule.betas * (1.0 - before) / (1.0 - schedule.alpha_bar)
    return (1.0 - posterior) * tilde + posterior * schedule.betas


def lvlb_weights(schedule):
    """Weights [T] that turn squared errors of eps into the variational bound.

    Eq. 12 of DDPM with beta-tilde as the variance, which is 0 at t = 0: as in the
    originals that entry repeats the next one. Raises where a weight is infinite.
    """
    check_prediction(schedule, "eps")
    betas, alpha_bar = schedule.betas[1:], schedule.alpha_bar[1:]
    variance = posterior_variance(schedule)[1:]
    weights = betas**2 / (2.0 * variance * (1.0 - betas) * (1.0 - alpha_bar))
    return np.append(weights[0], weights)
