"""Each sampler and grid against the scheduler of diffusers that goes by its name.

Both ask one toy network, from the same z_T, at the same timesteps, with the same noise.
Nothing solves it exactly, so that another method ends elsewhere.
"""

import sys

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import torch

from ldm_jax import denoise as dn
from ldm_jax import draws, grids, multistep, samplers
from ldm_jax import schedule as schedule_lib

pytestmark = pytest.mark.parity

BAR = 1e-5  # largest error by the largest value, in float32 on both sides
STEPS, SHAPE = 20, (4, 4, 3)
KEYS = jax.random.split(jax.random.key(0), 2)
KINDS = {"eps": "epsilon", "v": "v_prediction"}
BETAS = dict(
    num_train_timesteps=1000,
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
)
LEADING = dict(timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False)
TRAILING = dict(timestep_spacing="trailing")
TO_CLEAN = TRAILING | dict(set_alpha_to_one=True)  # those that take no sigma
FREE = dict(clip_sample=False)
DPM = TRAILING | dict(solver_order=2, solver_type="midpoint", final_sigmas_type="zero")
UNIPC = TRAILING | dict(solver_order=2, solver_type="bh2", predict_x0=True)
PLMS = dict(skip_prk_steps=True)

# name of the test: (theirs, its arguments, ours, eta)
CASES = {
    "ddim": (diffusers.DDIMScheduler, TO_CLEAN | FREE, "ddim", 0.0),
    "ddim_eta": (diffusers.DDIMScheduler, TO_CLEAN | FREE, "ddim", 0.7),
    "ddim_ldm": (diffusers.DDIMScheduler, LEADING | FREE, "ddim", 0.7),
    "ddpm": (diffusers.DDPMScheduler, TRAILING | FREE, "ddpm", 0.0),
    "plms": (diffusers.PNDMScheduler, TO_CLEAN | PLMS, "plms", 0.0),
    "plms_ldm": (diffusers.PNDMScheduler, LEADING | PLMS, "plms", 0.0),
    "euler": (diffusers.EulerDiscreteScheduler, TRAILING, "euler", 0.0),
    "euler_ancestral": (
        diffusers.EulerAncestralDiscreteScheduler,
        TRAILING,
        "euler_ancestral",
        0.0,
    ),
    "heun": (diffusers.HeunDiscreteScheduler, TRAILING, "heun", 0.0),
    "dpmpp_2m": (
        diffusers.DPMSolverMultistepScheduler,
        DPM | dict(algorithm_type="dpmsolver++"),
        "dpmpp_2m",
        0.0,
    ),
    "dpmpp_2m_sde": (
        diffusers.DPMSolverMultistepScheduler,
        DPM | dict(algorithm_type="sde-dpmsolver++"),
        "dpmpp_2m_sde",
        0.0,
    ),
    "unipc": (diffusers.UniPCMultistepScheduler, UNIPC, "unipc", 0.0),
}
# Their v is another method: PNDM's extrapolates v itself, and the inverse scheduler
# turns v by the alpha_bar of the cleaner end. They are handed the eps that v means.
BY_EPS = diffusers.PNDMScheduler, diffusers.DDIMInverseScheduler


def says(lib, z, t):
    """The toy network, of jnp or of torch: smooth in z and t."""
    return lib.tanh(z + t / 700) + 0.3 * lib.sin(2.5 * z - t / 150)


def schedule_of(scheduler):
    """The Schedule of a scheduler's own tables."""
    tables = scheduler.betas, scheduler.alphas_cumprod
    return schedule_lib.Schedule(*(np.float64(table) for table in tables))


def grid_of(scheduler):
    """The Grid of its timesteps, of which it repeats those that it asks twice."""
    schedule = schedule_of(scheduler)
    leading = scheduler.config.timestep_spacing == "leading"
    last = schedule.alpha_bar[0] if leading else 1.0
    return grids.make_grid(schedule, np.unique(scheduler.timesteps)[::-1], last)


def toy(schedule, predicts):
    """The toy network as a denoise of ours."""

    def denoise(params, z_t, t, cond, rng=None):
        output = says(jnp, z_t, schedule_lib.per_picture(t, z_t))
        return dn.Pred(*schedule_lib.solve(schedule, predicts, output, z_t, t))

    return denoise


def toy_of(kind, told, predicts):
    """(a scheduler at its timesteps, the toy network as it asks it)."""
    turned = predicts == "v" and kind in BY_EPS
    said = "epsilon" if turned else KINDS[predicts]
    scheduler = kind(**BETAS, **told, prediction_type=said)
    scheduler.set_timesteps(STEPS)

    def network(z, t):
        output = says(torch, z, t)
        alpha_bar = scheduler.alphas_cumprod[int(t)]
        eps = (1 - alpha_bar).sqrt() * z + alpha_bar.sqrt() * output
        return eps if turned else output

    return scheduler, network


def theirs(scheduler, network, z, **told):
    """The z at the end of a scheduler's timesteps, from z at their beginning."""
    z = torch.from_numpy(np.array(z))
    # Some walk x = z / sqrt(alpha_bar) instead, and scale it for the network.
    x = z / scheduler.scale_model_input(torch.ones(1), scheduler.timesteps[0])
    for t in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x, **told).prev_sample
    return x.numpy()


def draw_alike(monkeypatch, scheduler):
    """Has a scheduler draw our noise: that of step 1, then of step 2, and so on."""
    ours = jax.vmap(draws.noise, (None, 0, None))(KEYS, jnp.arange(STEPS) + 1, SHAPE)
    noise = iter(torch.from_numpy(np.array(ours)))
    module = sys.modules[type(scheduler).__module__]
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: next(noise))


def assert_same(ours, theirs):
    _, worst = parity.errors(ours, theirs)
    assert worst <= BAR, f"largest error {worst:.1e} of the largest value"


@pytest.mark.parametrize("predicts", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_sampler(monkeypatch, case, predicts):
    kind, told, name, eta = CASES[case]
    scheduler, network = toy_of(kind, told, predicts)
    draw_alike(monkeypatch, scheduler)
    z_T, grid = draws.initial_noise(KEYS, SHAPE), grid_of(scheduler)
    assert len(grid) == STEPS

    @jax.jit
    def run(knobs):
        denoise = toy(schedule_of(scheduler), predicts)
        return samplers.SAMPLERS[name](denoise, {}, KEYS, z_T, dn.Cond(), grid, knobs)

    more = {"eta": eta} if name == "ddim" else {}
    expected = theirs(scheduler, network, z_T, **more)
    assert_same(run({"eta": eta, "posterior": 0.0}), expected)


@pytest.mark.parametrize("predicts", KINDS)
def test_inversion(predicts):
    """One round is what is common: the eps of the noisier end's t at the cleaner z."""
    told = TO_CLEAN | FREE
    scheduler, network = toy_of(diffusers.DDIMInverseScheduler, told, predicts)
    z_0 = draws.initial_noise(KEYS, SHAPE)
    denoise = toy(schedule_of(scheduler), predicts)
    found = samplers.invert(denoise, {}, z_0, dn.Cond(), grid_of(scheduler))
    assert_same(found, theirs(scheduler, network, z_0))


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize(
    "name, told",
    [
        ("trailing", TRAILING),
        ("karras", dict(use_karras_sigmas=True)),
        ("exponential", dict(use_exponential_sigmas=True)),
    ],
)
def test_grid(name, told, steps):
    """Sigmas agree. Where steps do not divide 1000 diffusers rounds, we round down."""
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS, **told)
    scheduler.set_timesteps(steps)
    schedule = schedule_lib.linear(1000, BETAS["beta_start"], BETAS["beta_end"])
    grid = grids.GRIDS[name](schedule, steps)
    sigmas = multistep.sigma(jnp.append(grid.alpha_bar, grid.alpha_bar_prev[-1]))
    assert_same(sigmas, scheduler.sigmas)
    # Of each one by itself: in float32 their 1 - alpha_bar is 3e-5 off at t = 0.
    np.testing.assert_allclose(sigmas, scheduler.sigmas, rtol=3e-5)
    # Between two integers they interpolate log sigma and we alpha_bar, as at any t. Our
    # t differs by up to 0.09, near t = 0, where sigma bends most.
    np.testing.assert_allclose(grid.t, scheduler.timesteps, atol=0.1)
