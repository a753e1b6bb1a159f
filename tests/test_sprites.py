import collections

import numpy as np

from ldm_jax.data import captions, singles, sprites


def test_sheet_has_every_sprite():
    loaded = sprites.load()
    assert len(loaded.names) == 1015
    assert len(set(loaded.names)) == 1015
    assert all(name.isascii() for name in loaded.names)
    for i in range(0, 1015, 7):
        picture = loaded.rgba(i)
        assert picture.shape == (96, 96, 4)
        assert picture.dtype == np.uint8
        assert (picture[..., 3] > 200).mean() > 0.03
        assert (picture[..., 3] < 20).any()


def test_last_cells_of_the_sheet_are_empty():
    loaded = sprites.load()
    assert not loaded.rgba(1015)[..., 3].any()


def test_scene_classes():
    loaded = sprites.load()
    assert len(loaded.scene_indices) == len(loaded.scene_class) == 266
    names = [sprites.SCENE_CLASSES[kind] for kind in loaded.scene_class]
    counts = {"animal": 120, "plant": 26, "fruit": 36, "building": 29}
    assert collections.Counter(names) == counts | {"vehicle": 45, "aircraft": 10}
    of = {loaded.names[i]: n for i, n in zip(loaded.scene_indices, names, strict=True)}
    assert of["fox"] == "animal"
    assert of["helicopter"] == "aircraft"
    assert of["sailboat"] == "vehicle"
    assert "seat" not in of


def test_every_exclusion_names_a_sprite():
    assert set(loaded_names()) >= sprites.NOT_IN_SCENES
    assert not any(name.strip() != name for name in sprites.NOT_IN_SCENES)


def loaded_names():
    return sprites.load().names


def test_tags_never_contradict_a_background():
    for tags in sprites.load().tags:
        for tag in tags:
            assert not set(tag.replace("-", " ").split()) & set(captions.COLOURS)


def test_draw_is_premultiplied_flips_and_cuts():
    fox = loaded_names().index("fox")
    drawn = sprites.draw(fox, 40, 40)
    # Cubic resizing may overshoot by a little at edges.
    over = drawn[..., :3].max(-1).astype(int) - drawn[..., 3]
    assert over.max() <= 10
    np.testing.assert_array_equal(sprites.draw(fox, 40, 40, flip=True), drawn[:, ::-1])
    tight = sprites.draw(fox, 40, 40, tight=True)
    assert (tight[..., 3] > 127).mean() > (drawn[..., 3] > 127).mean()


def test_aspect_tells_long_from_tall():
    names = loaded_names()
    assert sprites.aspect(names.index("articulated lorry")) > 1.2
    assert sprites.aspect(names.index("giraffe")) < 1


def test_single_shows_the_background_where_the_sprite_is_not():
    fox = loaded_names().index("fox")
    image, alpha = singles.single(fox, "teal", 48, scale=0.8)
    assert image.shape == (48, 48, 3)
    bare = alpha == 0
    assert 0.2 < bare.mean() < 0.9
    assert (image[bare] == captions.COLOURS["teal"]).all()
    again, _ = singles.single(fox, captions.COLOURS["teal"], 48, scale=0.8)
    np.testing.assert_array_equal(image, again)


def test_single_moves_and_may_leave_the_picture():
    fox = loaded_names().index("fox")
    _, middle = singles.single(fox, "red", 40, scale=0.8)
    _, right = singles.single(fox, "red", 40, scale=0.8, offset=(0.1, 0.0))
    np.testing.assert_array_equal(middle[:, :-4], right[:, 4:])
    image, alpha = singles.single(fox, "red", 40, scale=1.5, offset=(0.4, -0.3))
    assert image.shape == (40, 40, 3)
    assert alpha.any()


def test_splits_share_no_pair_and_cover_all():
    train, heldout = (set(map(tuple, singles.pairs(s))) for s in ("train", "heldout"))
    assert not train & heldout
    assert len(train | heldout) == 266 * 12
    assert 0.03 < len(heldout) / (266 * 12) < 0.07
    assert {label for label, _ in train} == set(range(266))
