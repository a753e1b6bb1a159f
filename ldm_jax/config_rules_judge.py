"""The rules of a judge: what its UNet sees and says."""

from ldm_jax import config_rules_diffusion, rules

# Logits of a place, by what is read: judge_loss.HEADS. Depth has one for each pixel.
SAID = {"things": 268, "segments": 14, "depth": 0, "joints": 18}


def said(reads, patch):
    """How many logits of a place a judge says."""
    return sum(SAID[name] or patch**2 for name in reads)


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
    _reads(section, unet)
    for key, value in c.loss.items():
        rules.require(value >= 0, f"loss.{key} {value} must be 0 or more")
    step = section.patch * rules.factor(unet)
    rules.require(
        c.data.image_size % step == 0,
        f"data.image_size {c.data.image_size} must be a multiple of {step} for this "
        f"model (judge.patch {section.patch}, UNet levels {len(unet.mult)})",
    )


def _reads(section, unet):
    reads = section.reads
    rules.require(
        reads and set(reads) <= SAID.keys() and len(set(reads)) == len(reads),
        f"judge.reads {reads} must be one or more of {tuple(SAID)}, each of them once",
    )
    wanted = said(reads, section.patch)
    rules.require(
        unet.out_channels == wanted,
        f"unet.out_channels {unet.out_channels} must be {wanted}: what a judge says of "
        f"a place that reads {', '.join(reads)}",
    )
