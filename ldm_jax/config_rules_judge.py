"""The rules of a judge: what its UNet sees and says."""

from ldm_jax import config_rules_diffusion, rules


def judge(c):
    unet, section = c.unet, c.judge
    for key in ("patch", "segments"):
        rules.positive(f"judge.{key}", section[key])
    rules.require(
        section.things >= 2,
        f"judge.things {section.things} must count a thing and 'none'",
    )
    config_rules_diffusion.network(unet)
    rules.require(
        unet.attention == "plain" and max(*unet.depths, unet.mid_depth) <= 1,
        f"unet.attention {unet.attention!r} must be 'plain', with depths of 0 or 1: a "
        "judge is told nothing but the picture",
    )
    rules.require(
        unet.dropout == 0, f"unet.dropout {unet.dropout} must be 0: a judge has none"
    )
    said = section.things + section.segments
    rules.require(
        unet.out_channels == said,
        f"unet.out_channels {unet.out_channels} must equal judge.things plus "
        f"judge.segments, {said}",
    )
    for key in ("balance", "segments_weight"):
        rules.require(c.loss[key] >= 0, f"loss.{key} {c.loss[key]} must be 0 or more")
    step = section.patch * rules.factor(unet)
    rules.require(
        c.data.image_size % step == 0,
        f"data.image_size {c.data.image_size} must be a multiple of {step} for this "
        f"model (judge.patch {section.patch}, UNet levels {len(unet.mult)})",
    )
