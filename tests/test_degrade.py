"""Degradations: hand-made cases, and shares and bounds over seeded draws."""

import dataclasses
import io

import cv2
import numpy as np
from PIL import Image
import pytest

from ldm_jax.data import degrade

NAMES = tuple(degrade.DEGRADATIONS)
BLIND = ("bsr", "bsr_light")
RESIZES = tuple(name for name in NAMES if name not in BLIND)
GRADES = {"bsr": degrade.HEAVY, "bsr_light": degrade.LIGHT}


def degraded(name, picture, seed=0, factor=4):
    return degrade.DEGRADATIONS[name](picture, np.random.default_rng(seed), factor)


def scene(height=64, width=64):
    """Discs of random colours: edges, plain parts and every direction."""
    gen = np.random.default_rng(5)
    y, x = np.mgrid[:height, :width]
    picture = np.full((height, width, 3), 90, np.uint8)
    for _ in range(12):
        top, left, radius = gen.uniform(0, (height, width, 16))
        picture[np.hypot(y - top, x - left) < radius] = gen.integers(0, 256, 3)
    return picture


def ramp(height, width):
    """A picture in [0, 1] that says its column: value x / 64 at column x."""
    columns = np.arange(width, dtype=np.float32) / 64
    return np.broadcast_to(columns[:, None], (height, width, 3)).copy()


def energy(picture):
    """Mean square of the steps between neighbours."""
    x = picture.astype(float)
    return np.square(np.diff(x, axis=0)).mean() + np.square(np.diff(x, axis=1)).mean()


def near_share(hits, share):
    """Whether a mean of draws fits the share: within four standard errors."""
    return abs(np.mean(hits) - share) < 4 * np.sqrt(share * (1 - share) / len(hits))


@pytest.mark.parametrize("name", NAMES)
def test_shapes_bytes_and_equal_generators(name):
    picture = scene(48, 32)
    picture.flags.writeable = False
    for factor in (1, 2, 4, np.int64(8)):
        small = degraded(name, picture, 3, factor)
        assert small.shape == (48 // factor, 32 // factor, 3)
        assert small.dtype == np.uint8 and small.flags.c_contiguous
        np.testing.assert_array_equal(small, degraded(name, picture, 3, factor))
    turned = picture[::-1, ::-1].transpose(1, 0, 2)
    copied = degraded(name, turned.copy(), 3)
    np.testing.assert_array_equal(degraded(name, turned, 3), copied)


@pytest.mark.parametrize("name", BLIND)
def test_all_chance_is_the_generators(name):
    before = np.random.get_state()[1].copy()
    first, second = (degraded(name, scene(), seed) for seed in (0, 1))
    assert (first != second).any()
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("name", RESIZES)
def test_resizes_draw_nothing_and_keep_a_plain_colour(name):
    rng = np.random.default_rng(0)
    plain = np.full((16, 8, 3), (3, 130, 255), np.uint8)
    small = degrade.DEGRADATIONS[name](plain, rng, 4)
    np.testing.assert_array_equal(small, plain[:4, :2])
    assert rng.random() == np.random.default_rng(0).random()


def test_resizes_by_hand():
    """Blocks of 4x4 whose pixels count up: their mean, or which one is taken."""
    picture = np.arange(128, dtype=np.uint8).reshape(8, 16)[..., None].repeat(3, -1)
    means = picture.reshape(2, 4, 4, 4, 3).mean((1, 3))  # end in .5
    for name in ("cv_area", "pil_box"):
        assert abs(degraded(name, picture) - means).max() <= 0.5
    np.testing.assert_array_equal(degraded("cv_nearest", picture), picture[::4, ::4])
    np.testing.assert_array_equal(degraded("pil_nearest", picture), picture[2::4, 2::4])
    # Without antialias cv2's bilinear is the mean of the middle four alone.
    spot = np.zeros((4, 4, 3), np.uint8)
    spot[1:3, 1:3] = 200
    assert (degraded("cv_bilinear", spot) == 200).all()
    assert (degraded("pil_box", spot) == 50).all()


def test_bicubic_is_that_of_the_library():
    picture = scene(32, 64)
    kept = Image.fromarray(picture).resize((16, 8), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(degraded("pil_bicubic", picture), np.array(kept))
    kept = cv2.resize(picture, (16, 8), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(degraded("cv_bicubic", picture), kept)


@pytest.mark.parametrize(
    "name, most, mean",
    [("bsr", 130, 8), ("bsr_light", 16, 2)],  # five deviations of noise, and JPEG
)
def test_a_plain_picture_stays_plain_but_for_noise(name, most, mean):
    plain = np.full((32, 32, 3), (90, 128, 160), np.uint8)
    for seed in range(150):
        off = degraded(name, plain, seed) - plain[:8, :8].astype(float)
        assert abs(off).max() <= most and abs(off.mean()) <= mean


def test_a_gaussian_has_its_variances_along_its_axis():
    angle = 0.3
    weights = degrade.gaussian(25, (6.0, 1.5), angle)
    assert weights.shape == (25, 25) and np.isclose(weights.sum(), 1)
    y, x = np.mgrid[-12:13, -12:13]
    turn = np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), -np.cos(angle)]])
    along, across = np.tensordot(turn, np.stack([x, y]), 1)
    assert np.isclose((weights * along**2).sum(), 6, rtol=1e-3)
    assert np.isclose((weights * across**2).sum(), 1.5, rtol=1e-3)
    assert abs((weights * along * across).sum()) < 1e-3


def test_a_narrow_kernel_is_its_nearest_pixels():
    """The middle one, or the middle four of an even size; nothing underflows."""
    for size, side in ((7, 1), (6, 2)):
        want = np.zeros((size, size))
        want[3 - side // 2 :, 3 - side // 2 :][:side, :side] = 1 / side**2
        found = degrade.gaussian(size, (1e-9, 1e-9))
        np.testing.assert_allclose(found, want, atol=1e-12)
    assert np.isclose(degrade.gaussian(6, (1e-12, 1e-9), 0.5).sum(), 1)


@pytest.mark.parametrize("name", BLIND)
def test_drawn_kernels(name):
    """Sides and widths in their ranges, half of them round; each its own half turn."""
    grade, rng = GRADES[name], np.random.default_rng(0)
    drawn = [degrade.kernel(grade, rng, 4) for _ in range(500)]
    sides = {"bsr": set(range(7, 26, 2)), "bsr_light": set(range(5, 15))}[name]
    assert {len(k) for k in drawn} == sides
    widest = {"bsr": 8, "bsr_light": 2}[name]  # variance, along one axis
    roundest = {"bsr": 2.8, "bsr_light": 0.7}[name]  # deviation
    rounds = []
    for k in drawn:
        assert np.isclose(k.sum(), 1) and k.min() >= 0
        np.testing.assert_allclose(k, k[::-1, ::-1], atol=1e-12)
        rounds.append(max(abs(k - k[::-1]).max(), abs(k - k.T).max()) < 1e-9)
        x = np.arange(len(k)) - (len(k) - 1) / 2
        variance = k.sum(0) @ x**2
        limit = max(roundest**2 if rounds[-1] else widest, 0.25)
        assert variance <= limit * 1.01
        assert not rounds[-1] or name == "bsr" or len(k) <= 7
    assert near_share(rounds, 0.5)


def test_blur_keeps_the_middle_or_moves_half_a_pixel_up_and_left():
    image = np.zeros((11, 11, 3), np.float32)
    image[5, 5] = 1
    for size, middle in ((5, 5), (6, 4.5)):
        found = degrade.blur(image, degrade.gaussian(size, (1.0, 0.5), 0.4))[..., 0]
        assert np.isclose(found.sum(), 1, atol=1e-5)
        y, x = np.mgrid[:11, :11]
        assert np.allclose([(found * y).sum(), (found * x).sum()], middle, atol=1e-4)


def test_the_shifted_kernel():
    for factor in (1, 2, 3, 4, 8):
        taps = degrade.shifted(1.5, factor)
        assert taps.shape == (25,) and np.isclose(taps.sum(), 1)
        middle = taps @ np.arange(25)
        assert np.isclose(middle, 12 - (factor - 1) / 2, atol=1e-3)


@pytest.mark.parametrize("factor", [2, 4])
def test_what_is_picked_stands_for_the_middle_of_its_block(factor):
    grade = dataclasses.replace(degrade.HEAVY, resized=0.0)
    image = ramp(8, 64)
    found = degrade.shrink(grade, image, np.random.default_rng(0), factor)
    assert found.shape == (8 // factor, 64 // factor, 3)
    want = (np.arange(0, 64, factor) + (factor - 1) / 2) / 64
    inner = slice(16 // factor, 48 // factor)  # clear of the mirrored edges
    np.testing.assert_allclose(found[0, inner, 0], want[inner], atol=1e-4)


def test_free_shrinking_covers_its_range():
    grade = dataclasses.replace(degrade.HEAVY, resized=1.0)
    rng = np.random.default_rng(0)
    found = [degrade.shrink(grade, ramp(40, 80), rng, 4).shape for _ in range(200)]
    heights, widths, _ = np.transpose(found)
    assert heights.min() == 5 and 36 <= heights.max() <= 40
    assert (abs(widths - 2 * heights) <= 1).all()
    assert degrade.shrink(grade, ramp(1, 1), rng, 4).shape == (1, 1, 3)


@pytest.mark.parametrize("name, share", [("bsr", 0.75), ("bsr_light", 0.8)])
def test_how_many_shrink_freely(name, share):
    """The others have just the width that the factor says."""
    rng, image = np.random.default_rng(0), ramp(4, 1600)
    found = [degrade.shrink(GRADES[name], image, rng, 4).shape[1] for _ in range(500)]
    assert near_share([width != 400 for width in found], share)


def test_halving_is_aligned_and_half_the_time_antialiased():
    image = ramp(8, 64)
    want = (np.arange(0, 64, 2) + 0.5) / 64
    for seed in range(12):
        found = degrade.halve(image, np.random.default_rng(seed))
        assert found.shape == (4, 32, 3)
        np.testing.assert_allclose(found[1, 4:-4, 0], want[4:-4], atol=1e-5)
    smooth = next(s for s in range(9) if np.random.default_rng(s).random() >= 0.5)
    sharp = np.float32(scene() / 255)
    found = degrade.halve(sharp, np.random.default_rng(smooth))
    kept = Image.fromarray(sharp[..., 0])
    kept = np.array(kept.resize((32, 32), Image.Resampling.BICUBIC))
    inner = np.s_[2:-2, 2:-2]  # at the edges one mirrors and the other cuts
    np.testing.assert_allclose(found[..., 0][inner], kept[inner].clip(0, 1), atol=1e-5)


@pytest.mark.parametrize("name", BLIND)
def test_the_order_of_steps(name):
    """Shuffled, but a swap keeps fit after shrink: twice as often last as others."""
    rng = np.random.default_rng(0)
    drawn = [degrade.order(GRADES[name], rng) for _ in range(1500)]
    blurs = {"bsr": 2, "bsr_light": 1}[name]
    names = sorted(["blur"] * blurs + ["shrink", "fit", "noise", "jpeg"])
    assert all(sorted(o) == names for o in drawn)
    assert all(o.index("shrink") < o.index("fit") for o in drawn)
    one = 1 / len(names)
    assert near_share([o[0] == "noise" for o in drawn], one)
    assert near_share([o[0] == "shrink" for o in drawn], 2 * one)
    assert near_share([o[-1] == "fit" for o in drawn], 2 * one)
    assert near_share([o[-1] == "blur" for o in drawn], blurs * one)
    assert near_share([o.index("jpeg") < o.index("noise") for o in drawn], 0.5)


@pytest.mark.parametrize("name, factor", [("bsr", 4), ("bsr_light", 4), ("bsr", 2)])
def test_shares_of_halving_and_jpeg(name, factor, monkeypatch):
    """JPEG comes at the end, and before it in nine of ten, at drawn qualities."""
    qualities, halved = [], []
    halve = degrade.halve
    monkeypatch.setattr(degrade, "jpeg", lambda x, q: (qualities.append(q), x)[1])
    monkeypatch.setattr(degrade, "halve", lambda *a: (halved.append(1), halve(*a))[1])
    for seed in range(400):
        degraded(name, scene(8, 8), seed, factor)
    share = 0.25 if factor == 4 else 0
    assert near_share([1] * len(halved) + [0] * (400 - len(halved)), share or 1e-6)
    assert near_share([1] * (len(qualities) - 400) + [0] * (800 - len(qualities)), 0.9)
    low, high = {"bsr": (30, 95), "bsr_light": (80, 95)}[name]
    assert set(qualities) == set(range(low, high + 1))


@pytest.mark.parametrize("name, low, high", [("bsr", 2, 25), ("bsr_light", 1, 2)])
def test_kinds_and_levels_of_noise(name, low, high):
    rng, image = np.random.default_rng(0), np.full((64, 64, 3), 0.5, np.float32)
    kinds, levels, powers = [], set(), []
    for _ in range(250):
        added = degrade.noise(image, rng, GRADES[name].noise) - image
        assert added.dtype == np.float32 and abs(added.mean()) < high / 255 / 5
        spread = added.std((0, 1)) * 255
        gray = np.array_equal(added[..., :2], added[..., 1:])
        alike = np.allclose(spread, round(spread.mean()), rtol=0.05)
        if gray or (alike and related(added) < 0.07):
            assert alike
            kinds.append("gray" if gray else "colour")
            levels.add(round(spread.mean()))
        else:
            assert spread.max() < 1.1 * high
            kinds.append("correlated")
            powers.append(np.square(spread / high).mean())
    for kind, share in {"gray": 0.4, "colour": 0.4, "correlated": 0.2}.items():
        assert near_share([k == kind for k in kinds], share)
    assert abs(np.mean(powers) - 0.5) < 0.1  # always at the highest level
    assert low - 1 <= min(levels) <= low + 1 and high - 1 <= max(levels) <= high + 1


def related(added):
    """The highest correlation between two channels."""
    table = np.corrcoef(added.reshape(-1, 3).T)
    return abs(table - np.eye(3)).max()


def test_jpeg_sees_red_as_red():
    """As Pillow writes and reads the same picture; with channels swapped it differs."""
    picture = scene()
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=40)
    want = np.array(Image.open(file)).astype(float)
    image = np.float32(picture / 255)
    off = abs(degrade.jpeg(image, 40) * 255 - want).mean()
    swapped = abs(degrade.jpeg(image[..., ::-1], 40)[..., ::-1] * 255 - want).mean()
    assert off < 0.2 and swapped > 1


def test_detail_is_lost_and_the_heavy_one_loses_more():
    picture = scene()
    clean = degraded("cv_bicubic", picture).astype(float)
    off, left = {}, {}
    for name in BLIND:
        drawn = [degraded(name, picture, seed) for seed in range(100)]
        off[name] = np.mean([abs(x - clean).mean() for x in drawn])
        left[name] = np.mean([np.sqrt(energy(x)) for x in drawn])
    assert off["bsr"] > 1.2 * off["bsr_light"]
    assert left["bsr"] < left["bsr_light"] < 0.8 * np.sqrt(energy(clean))


@pytest.mark.parametrize("name", ["bsr", "cv_area", "pil_box"])
def test_what_cannot_be_degraded_is_told(name):
    good = scene(8, 8)
    for picture in (good / 255, good[..., 0], good[..., :2], good.astype(np.int32)):
        with pytest.raises(ValueError, match=r"give RGB as uint8 \[H, W, 3\]"):
            degraded(name, picture)
    with pytest.raises(ValueError, match="10x8 does not divide by factor 4: crop or"):
        degraded(name, scene(10, 8))
    with pytest.raises(ValueError, match="0x8 does not divide"):
        degraded(name, good[:0])
    for factor in (0, -2, 1.5, 4.0, None):
        with pytest.raises(ValueError, match=f"factor {factor} must be a whole number"):
            degraded(name, good, factor=factor)


def test_a_factor_past_the_shifted_kernel_is_refused():
    with pytest.raises(ValueError, match="factor 26 is past 25.*'cv_area'"):
        degraded("bsr", scene(26, 26), factor=26)
    assert degraded("bsr_light", scene(50, 25), factor=25).shape == (2, 1, 3)
    assert degraded("cv_area", scene(52, 26), factor=26).shape == (2, 1, 3)
