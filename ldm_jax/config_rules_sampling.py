"""The rules of the section `sample`: what does nothing, or cannot work, is refused."""

from ldm_jax import rules

# Knobs of one sampler or kind of guidance: their owner, and what is off.
OWNED = {
    "eta": ("sampler", "ddim"),
    "posterior": ("sampler", "ddpm"),
    "apg_radius": ("guidance", "apg"),
    "apg_parallel": ("guidance", "apg"),
}
BY_EPS = ("ddim", "euler", "euler_ancestral")  # samplers that renoise by it
DIVIDING = ("heun", "plms")  # samplers that divide by the signal
# Knobs of guidance, where there is nothing to guide by.
UNGUIDED = {
    "scale": 1.0,
    "guidance": "cfg",
    "shape": "constant",
    "interval": (0.0, 1.0),
    "rescale": 0.0,
}


def sampling(c):
    """Raises ValueError, naming the key."""
    sample, last = c.sample, c.schedule.zero_terminal
    for key, (role, owner) in OWNED.items():
        rules.require(
            sample[key] == 0 or sample[role] == owner,
            f"sample.{key} {sample[key]} is of the {role} {owner!r}, sample.{role} is "
            f"{sample[role]!r}: it must be 0",
        )
    rules.require(
        not last or sample.grid == "trailing",
        f"sample.grid {sample.grid!r} begins below the last step, which is what "
        "schedule.zero_terminal trains for: it must be 'trailing'",
    )
    rules.require(
        not last or sample.sampler not in DIVIDING,
        f"sample.sampler {sample.sampler!r} divides by the signal, of which "
        f"schedule.zero_terminal leaves none: it must not be one of {DIVIDING}",
    )
    _shares(sample)
    _guidance(c)


def _shares(sample):
    """Numbers within their ranges."""
    for key in ("eta", "posterior", "rescale", "threshold", "apg_parallel"):
        rules.require(
            0 <= sample[key] <= 1, f"sample.{key} {sample[key]} must be in [0, 1]"
        )
    rules.require(
        0 < sample.strength <= 1,
        f"sample.strength {sample.strength} must be above 0 and at most 1",
    )
    rules.require(
        len(sample.interval) == 2,
        f"sample.interval {sample.interval} must be two shares of the noise range",
    )
    for key in ("apg_radius", "decode_batch"):
        rules.require(
            sample[key] >= 0, f"sample.{key} {sample[key]} must be 0 (off) or above"
        )


def _guidance(c):
    """What is guided by must be there, and what guides must be read."""
    sample, cond = c.sample, c.cond_stage
    for key, off in UNGUIDED.items():
        rules.require(
            cond.kind not in rules.WITHOUT_NULL or sample.guide or sample[key] == off,
            f"sample.{key} {sample[key]} does nothing where cond_stage.kind is "
            f"{cond.kind!r}, which has no null: it must be {off}",
        )
    rules.require(
        cond.kind not in ("label", "layout")
        or cond.drop > 0
        or sample.guide
        or sample.scale == 1,
        f"sample.scale {sample.scale} leads away from a null that cond_stage.drop 0 "
        "never trains: it must be 1",
    )
    rules.require(
        not sample.threshold or c.first_stage.kind == "identity",
        f"sample.threshold {sample.threshold} cuts to the range of pixels, and latents "
        "have none: it must be 0 unless first_stage.kind is 'identity'",
    )
    if sample.guidance == "cfg_pp":
        rules.require(
            sample.sampler in BY_EPS,
            f"sample.guidance 'cfg_pp' is of samplers that renoise by eps, {BY_EPS}: "
            f"sample.sampler {sample.sampler!r} is none",
        )
        rules.require(
            0 <= sample.scale <= 1
            and sample.shape == UNGUIDED["shape"]
            and tuple(sample.interval) == UNGUIDED["interval"],
            f"sample.guidance 'cfg_pp' has a scale in [0, 1] (not {sample.scale}) that "
            "is the same at all t: sample.shape and sample.interval must be left alone",
        )
