"""The blocks of our networks in the order in which they run, for layouts to name."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Block:
    """One block of a UNet or an autoencoder."""

    ours: str  # its path, "trunk/down_0_res_1"
    kind: str  # "res", "attn" or "resample"
    side: str  # "down", "mid" or "up"
    level: int  # 0 is the finest; of the middle the coarsest
    i: int  # number among its kind in the level
    width: int  # channels that leave it


def trunk(arch):
    """Down path and middle of a UNet."""
    for level, factor in enumerate(arch.mult):
        width = arch.channels * factor
        for i in range(arch.blocks):
            yield Block(f"down_{level}_res_{i}", "res", "down", level, i, width)
            if arch.depths[level]:
                yield Block(f"down_{level}_attn_{i}", "attn", "down", level, i, width)
        if level < len(arch.mult) - 1:
            name = f"down_{level}_resample"
            yield Block(name, "resample", "down", level, 0, width)
    yield from _middle(len(arch.mult) - 1, width, arch.mid_depth)


def up(arch):
    """Up path of a UNet."""
    for level in reversed(range(len(arch.mult))):
        width = arch.channels * arch.mult[level]
        for i in range(arch.blocks + 1):
            yield Block(f"up_{level}_res_{i}", "res", "up", level, i, width)
            if arch.depths[level]:
                yield Block(f"up_{level}_attn_{i}", "attn", "up", level, i, width)
        if level:
            yield Block(f"up_{level}_resample", "resample", "up", level, 0, width)


def encoder(arch):
    """Down path and middle of an autoencoder."""
    last = len(arch.mult) - 1
    for level, factor in enumerate(arch.mult):
        width = arch.channels * factor
        yield from _stage("down", level, arch.blocks, arch.attention[level], width)
        if level < last:
            name = f"down_{level}_resample"
            yield Block(name, "resample", "down", level, 0, width)
    yield from _middle(last, width, arch.mid_attention)


def decoder(arch):
    """Middle and up path of an autoencoder."""
    last = len(arch.mult) - 1
    yield from _middle(last, arch.channels * arch.mult[-1], arch.mid_attention)
    for level in reversed(range(len(arch.mult))):
        width = arch.channels * arch.mult[level]
        yield from _stage("up", level, arch.blocks + 1, arch.attention[level], width)
        if level:
            yield Block(f"up_{level}_resample", "resample", "up", level, 0, width)


def _stage(side, level, blocks, attends, width):
    for i in range(blocks):
        yield Block(f"{side}_{level}_res_{i}", "res", side, level, i, width)
        if attends:
            yield Block(f"{side}_{level}_attn_{i}", "attn", side, level, i, width)


def _middle(level, width, attends):
    yield Block("mid_res_0", "res", "mid", level, 0, width)
    if attends:
        yield Block("mid_attn", "attn", "mid", level, 0, width)
    yield Block("mid_res_1", "res", "mid", level, 1, width)


def heads(arch, block):
    """Attention heads of a UNet's block."""
    return arch.heads or block.width // arch.head_channels


def depth(arch, block):
    """Transformer blocks in one of a UNet's attention blocks."""
    return arch.mid_depth if block.side == "mid" else arch.depths[block.level]
