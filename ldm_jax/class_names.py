"""What the numbers of labels, boxes and maps are called."""

from ldm_jax import paths
from ldm_jax.data import datasets, labels, packed, sprites


def of(config):
    """A name for each number of cond_stage.classes; its digits where nobody says one.

    Those of data sets that are drawn, or those in the pack.json of data.path. A label
    that is the null is none.
    """
    section = config.cond_stage
    found = _known(config).get(section.kind, ())
    count = section.classes - (section.kind == "label" and section.drop > 0)
    return [found[i] if i < len(found) else str(i) for i in range(count)]


def _known(config):
    """{kind of cond_stage: names}."""
    if config.data.name in datasets.DRAWN:
        loaded = sprites.load()
        things = [loaded.names[cell] for cell in loaded.scene_indices]
        kinds, segments = labels.CLASSES, labels.SEGMENTS
        return {"label": things, "layout": kinds, "segmentation": segments}
    path = paths.resolve(config.data.path)
    if config.data.name != "packed" or not (path / packed.ABOUT).is_file():
        return {}
    about = packed.read_about(path)
    return {"label": about["labels"], "layout": about["classes"]}


def number(config, said):
    """The number of a label that is said by its name or number.

    Raises ValueError for one that is not there, naming some that are.
    """
    known = of(config)
    if said in known:
        return known.index(said)
    last = len(known) - 1
    if said.isdecimal() and int(said) <= last:
        return int(said)
    raise ValueError(
        f"label {said!r} is none of this model's: 0 to {last}, or "
        f"{', '.join(known[:8])} ..."
    )
