"""File names in configs: "demo:NAME" is a file that ships with the project."""

import pathlib

DEMO = pathlib.Path(__file__).parent / "demo"


def resolve(name):
    """The path of a file named in a config."""
    scheme, _, rest = str(name).partition(":")
    return DEMO / rest if scheme == "demo" and rest else pathlib.Path(name)
