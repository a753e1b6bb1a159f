"""Colours of classes: ADE20K's, and those of drawn scenes among them."""

import numpy as np

from ldm_jax.data import labels

UNLABELLED = 255  # and all above: black, whatever the palette
# Published with ADE20K's 150 scene-parsing classes (CSAILVision/sceneparsing) and
# drawn by ControlNet's segmentation: RGB in hex, class 0 first.
ADE20K = np.frombuffer(
    bytes.fromhex(
        "787878b4787806e6e650323204c8037878508c8c8ccc05ffe6e6e604fa07e005ffebff07"
        "96053d78784608ff33ff06528fff8cccff04ff3307cc46030066c83de6faff06330b66ff"
        "ff0747ff09e00907e6dcdcdcff095c7009ff08ffd607ffe0ffb8060aff47ff290a07ffff"
        "e0ff086608ffff3d06ffc207ff7a0800ff14ff0829ff05990633ffeb0cffa0961400a3ff"
        "8c8c8cfa0a0f14ff001fff00ff1f00ffe00099ff000000ffff470000ebff00adff1f00ff"
        "0bc8c8ff520000fff5003dff00ff7000ff85ff0000ffa300ff6600c2ff00008fff33ff00"
        "0052ff00ff2900ffad0a00ffadff0000ff99ff5c00ff00ffff00f5ff0066ffad00ff0014"
        "ffb8b8001fff00ff3d0047ffff00cc00ffc200ff52000aff0070ff3300ff00c2ff007aff"
        "00ffa3ff990000ff0aff70008fff005200ffa3ff00ffeb0008b8aa8500ff00ff5cb800ff"
        "ff001f00b8ff00d6ffff00705cff0000e0ff70e0ff46b8a0a300ff9900ff47ff00ff00a3"
        "ffcc00ff008f00ffeb85ff00ff00ebf500ffff007afff5000abed4d6ff0000ccff1400ff"
        "ffff000099ff0029ff00ffcc2900ff29ff00ad00ff00f5ff4700ff7a00ff00ffb8005cff"
        "b8ff000085ffffd60019c2c266ff005c00ff"
    ),
    np.uint8,
).reshape(150, 3)
# The class of ADE20K that comes nearest to each of labels.SEGMENTS, no two the same,
# so that a network that was taught their colours reads a drawn scene too.
NEAREST = {
    "backdrop": 0,  # wall
    "sky": 2,  # sky
    "grass": 9,  # grass
    "sand": 46,  # sand
    "snow": 13,  # earth: there is no snow, and this is the ground of nothing else
    "road": 6,  # road
    "water": 21,  # water
    "animal": 126,  # animal
    "plant": 17,  # plant
    "fruit": 120,  # food
    "building": 1,  # building
    "vehicle": 20,  # car
    "aircraft": 90,  # airplane
    "person": 12,  # person
}
SEGMENTS = ADE20K[[NEAREST[name] for name in labels.SEGMENTS]]  # uint8 [14, 3]


def colours(numbers, palette=ADE20K):
    """Classes [H, W], whole numbers, in the colours uint8 [K, 3] of a palette.

    UNLABELLED and above is black. Other numbers past the palette raise ValueError.
    """
    numbers = np.asarray(numbers)
    known = numbers < len(palette)
    wrong = ~known & (numbers < UNLABELLED) | (numbers < 0)
    if wrong.any():
        raise ValueError(
            f"class {numbers[wrong][0]} is none of 0 to {len(palette) - 1} "
            f"({UNLABELLED}: unlabelled)"
        )
    return np.where(known[..., None], palette[np.where(known, numbers, 0)], np.uint8(0))
