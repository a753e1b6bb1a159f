"""The rules of a judge: what its UNet sees and says."""

from ldm_jax import config_rules_diffusion, rules

SAID = 282  # logits of a place: 268 things and 14 segments


def judge(c):
    unet, section = c.unet, c.judge
    rules.positive("judge.patch", section.patch)
    config_rules_diffusion.network(unet)
    rules.require(
        unet.attention == "plain" and max(*unet.depths, unet.mid_depth) <= 1,
        f"unet.attention {unet.attention!r} must be 'plain', with depths of 0 or 1: a "
        "judge is told nothing but the picture",
    )
    rules.require(
        unet.dropout == 0, f"unet.dropout {unet.dropout} must be 0: a judge has none"
    )
    rules.require(
        unet.out_channels == SAID,
        f"unet.out_channels {unet.out_channels} must be {SAID}: a judge says which "
        "thing and which segment is at a place",
    )
    for key in ("balance", "segments_weight"):
        rules.require(c.loss[key] >= 0, f"loss.{key} {c.loss[key]} must be 0 or more")
    step = section.patch * rules.factor(unet)
    rules.require(
        c.data.image_size % step == 0,
        f"data.image_size {c.data.image_size} must be a multiple of {step} for this "
        f"model (judge.patch {section.patch}, UNet levels {len(unet.mult)})",
    )
