"""File names in configs: "demo:NAME" is a file that ships with the project.

So is "vocabulary:NAME", one of the tokenizers of well-known models.
"""

import pathlib

HERE = pathlib.Path(__file__).resolve().parent
CONFIGS = HERE.parent / "configs"  # of a clone
SHIPPED = {"demo": HERE / "demo", "vocabulary": HERE / "vocabularies"}


def resolve(name):
    """The path of a file named in a config."""
    scheme, _, rest = str(name).partition(":")
    return SHIPPED[scheme] / rest if scheme in SHIPPED and rest else pathlib.Path(name)
