"""The import rules and limits of the architecture, kept true by walking the code."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted([*ROOT.glob("ldm_jax/**/*.py"), *ROOT.glob("configs/**/*.py")])

# Commands may import everything of ours but each other, and nothing imports them.
COMMANDS = {
    *("train", "sample", "evaluate", "plan"),
    *("convert", "encode", "export", "fetch", "hints", "inspect_data", "pack"),
    *("reconstruct", "demo.__main__"),
}
# What the commands share: it joins all other parts, and only they import it.
TOOLS = {
    *("cli", "inputs", "knobs", "runs", "generation"),
    *(
        "album",
        "jobs",
        "orders",
        "encoding",
        "exporting",
        "inspection",
        "joining",
        "packing",
        "planning",
    ),
    *("validation", "reconstruction", "fidelity"),
    *("scene_fidelity", "feature_distance", "judging"),
    *("condition_fidelity", "control_fidelity", "restoration"),
    *("prompts", "given", "embeddings", "interactive", "class_names"),
    *("tokenizers", "webpage"),
}

# What each module or package of ldm_jax may import of ldm_jax, "" being everything;
# the longest name decides. A new module needs a line here: where does it stand?
KIT = {"names", "paths", "trees"}
RULES = {"rules", "config_rules_diffusion", "config_rules_first_stage"}
RULES |= {"config_rules_control", "config_rules_judge", "config_rules_sampling"}
MATHS = {"schedule", "denoise", "guidance", "losses"}
MATHS |= {"draws", "grids", "samplers", "multistep"}
MAY_IMPORT = {
    **{name: {""} for name in COMMANDS | TOOLS},
    "configs": {"config", "families"},
    "families": {"config", "names"},
    "ldm_jax": set(),
    "config": {"config_rules", "names"},
    "config_saved": {"config"},
    "config_rules": {"names", *RULES},
    **{name: {"names", "rules"} for name in RULES},
    "config_rules_control": {"control", "rules"},
    "config_rules_judge": {"config_rules_diffusion", "rules"},
    "config_rules_diffusion": {
        *("config_rules_control", "config_rules_sampling"),
        *("names", "rules"),
    },
    "rules": set(),
    "names": set(),
    "paths": set(),
    "trees": {"names"},
    "schedule": {"names"},
    "denoise": {"schedule"},
    "draws": set(),
    "grids": set(),
    "guidance": {"denoise", "names", "schedule"},
    "multistep": {"draws", "grids"},
    "sampling": {*MATHS, "names", "pictures"},
    "samplers": {"draws", "grids", "multistep"},
    "losses": {"schedule", "names"},
    "models": {"models"},
    "models.conditioners": {"models", "denoise", "names"},
    "models.controlnet": {"models", "names"},
    "adversary": {"losses", "models", "names"},
    "branches": {"control", "denoise", "models"},
    "control": {"names"},
    "diffusion_loss": {
        *("first_stage", "kept_texts", "losses", "models", "pictures", "schedule"),
        "trees",
    },
    "first_stage": {"losses", "models", "names"},
    "first_stage_loss": {"adversary", "losses", "models", "pictures", "trees"},
    "judge_loss": {"pictures"},
    "kept_texts": {"denoise"},
    "system": {
        *{*KIT, *MATHS, "branches", "config", "models", "pictures"},
        *("diffusion_loss", "first_stage", "first_stage_loss", "judge_loss"),
        *("kept_texts", "sampling"),
    },
    "checkpoint": KIT,
    "edges": {"models", "trees", "weights"},
    "evaluation": KIT,
    "metrics": {*KIT, "pictures"},
    "optim": KIT,
    "pictures": KIT,
    "sharding": KIT,
    "train_step": KIT,
    "weights": {*KIT, "weights"},
    "frozen": {*KIT, "config_saved", "models", "system", "weights"},
    "patches": KIT,
    "strips": {"models", "weights"},
    "large": {*KIT, "models", "patches", "strips", "system"},
    "exchange": {
        *KIT,
        *("config", "config_rules", "config_rules_control", "config_saved"),
        *("system", "frozen"),
        *("weights", "data", "exchange"),
    },
    "data": {"names", "paths", "data"},
    "demo": {"data"},
    "demo.page": {"cli", "control", "pictures", "webpage"},
    "demo.teach": {*KIT, "config_saved", "data", "system", "tokenizers", "weights"},
    "applications": {*MATHS, "applications", "models", "system"},
}

# What a module or package of ldm_jax may not import of others; "" is all of them.
BANNED = {
    "": {"jax._src", "tensorflow", "torch"},
    "config": {"flax", "jax"},
    **{name: {"flax", "jax"} for name in ("config_rules", *RULES)},
    "data": {"flax", "jax", "optax"},
    "models": {"absl", "ml_collections"},
}
FLAGS = {"absl.app", "absl.flags"}
# grain's worker processes want absl's flags parsed, also where nobody parses any.
MAY_USE_FLAGS = {*COMMANDS, "cli", "data.pipeline"}

MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60
MAX_ARGUMENTS = 9
TABLES_OF_KNOBS = {"config"}  # functions as long as there are knobs

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def within(module, parents):
    """Whether a dotted name is one of `parents` or lies inside one."""
    return any(not p or module == p or module.startswith(f"{p}.") for p in parents)


def place(module):
    """The longest key of MAY_IMPORT that holds a module, or None."""
    return max((p for p in MAY_IMPORT if within(module, [p])), key=len, default=None)


def imports(tree):
    """The dotted name of everything that is imported, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_module(target):
    path = ROOT.joinpath(*target.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def inner_problem(module, target):
    """What is wrong when one part of ldm_jax imports another, or None."""
    if within(target, COMMANDS):
        return f"imports {target}: nothing imports a command"
    if within(target, ["applications"]) and not within(module, ["applications"]):
        return f"imports {target}: nothing imports an application"
    allowed = MAY_IMPORT[place(module)]
    return None if within(target, allowed) else f"must not import {target}"


def import_problem(module, target):
    """What is wrong when a part of ldm_jax or a config imports something, or None."""
    if target.startswith("."):
        return f"imports {target}: name the whole module"
    if within(target, ["ldm_jax"]) and not is_module(target):
        return f"imports {target}: import its module whole"
    if module.startswith("configs."):
        allowed = target in ("ldm_jax.config", "ldm_jax.families")
        return None if allowed else f"imports {target}: configs import ldm_jax.config"
    if within(target, ["ldm_jax"]):
        return inner_problem(module, target.removeprefix("ldm_jax."))
    if within(target, FLAGS) and module not in MAY_USE_FLAGS:
        return f"imports {target}: flags belong to the commands"
    banned = set().union(*(b for who, b in BANNED.items() if within(module, [who])))
    return f"must not import {target}" if within(target, banned) else None


def own_lines(function):
    """Lines of a function without those of the functions that it defines inside."""
    inner = [n for n in ast.walk(function) if isinstance(n, FUNCTIONS)]
    lines = [set(range(n.lineno, n.end_lineno + 1)) for n in inner]
    return len(lines[0].difference(*lines[1:]))


def size_problems(module, tree):
    for node in (n for n in ast.walk(tree) if isinstance(n, FUNCTIONS)):
        if own_lines(node) > MAX_FUNCTION_LINES and module not in TABLES_OF_KNOBS:
            yield f"{node.name} has {own_lines(node)} lines"
        a = node.args
        count = len(a.posonlyargs) + len(a.args) + len(a.kwonlyargs)
        if count > MAX_ARGUMENTS:
            yield f"{node.name} takes {count} arguments"


def is_config(node, module):
    """Whether an expression is a config, or a section of one, by its name."""
    while isinstance(node, ast.Attribute):
        if node.attr == "config":
            return True
        node = node.value
    names = {"config", "cfg"}
    if within(module, ["configs", "config", "config_rules", *RULES]):
        names.add("c")
    return isinstance(node, ast.Name) and node.id in names


def config_reads(tree):
    """(line, function, what it reads from) of every .get, getattr and hasattr."""
    for node in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        match node:
            case ast.Call(func=ast.Attribute(value=source, attr="get")):
                yield node.lineno, ".get", source
            case ast.Call(
                func=ast.Name(id="getattr" | "hasattr" as name), args=[source, *_]
            ):
                yield node.lineno, name, source


def knob_problems(module, tree):
    """Reads of a config that would pass over a missing key."""
    for line, how, source in config_reads(tree):
        if is_config(source, module):
            yield f"line {line}: {how} on a config; a default has one home"


def broad_excepts(tree):
    for node in (n for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler)):
        caught = [None] if node.type is None else ast.walk(node.type)
        names = {n and getattr(n, "id", "") for n in caught}
        if names & {None, "Exception", "BaseException"}:
            yield f"line {node.lineno}: name the exception that is expected"


def problems(module, text):
    """Everything in a file that breaks a rule, in words."""
    if place(module) is None:
        return [f"{module} stands nowhere: add it to MAY_IMPORT"]
    tree = ast.parse(text)
    lines = text.count("\n")
    found = [import_problem(module, target) for target in imports(tree)]
    found += [f"has {lines} lines"] if lines > MAX_FILE_LINES else []
    found += [*size_problems(module, tree), *knob_problems(module, tree)]
    return [problem for problem in [*found, *broad_excepts(tree)] if problem]


def dotted(path):
    """The module of a file as the tables above name it; a package by its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts).removeprefix("ldm_jax.")


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_file(path):
    assert problems(dotted(path), path.read_text()) == []


def test_the_walk_finds_the_code():
    assert {"config", "models.unet"} <= {dotted(p) for p in FILES}


LONG = "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES
FACTORY = "def f():\n    def g():\n" + "        x = 1\n" * MAX_FUNCTION_LINES
WIDE = f"def f({', '.join(f'a{i}' for i in range(MAX_ARGUMENTS + 1))}): pass"


@pytest.mark.parametrize(
    ("module", "text", "words"),
    [
        ("shelf", "", "stands nowhere"),
        ("models.unet", "from ldm_jax import config", "import config"),
        ("models.unet", "import ml_collections", "ml_collections"),
        ("models.unet", "from ldm_jax.data import sprites", "sprites"),
        ("data.sprites", "import jax.numpy as jnp", "jax.numpy"),
        ("data.sprites", "def f():\n    from jax import lax", "jax.lax"),
        ("data.sprites", "from ldm_jax import system", "import system"),
        ("denoise", "from ldm_jax import samplers", "import samplers"),
        ("denoise", "from . import schedule", "name the whole module"),
        ("samplers", "from jax._src import core", "jax._src"),
        ("system", "from ldm_jax import train", "a command"),
        ("system", "from ldm_jax import knobs", "import knobs"),
        ("system", "from absl import flags", "flags belong"),
        ("system", "from ldm_jax.samplers import ddim", "whole"),
        ("sample", "import torch.nn", "torch"),
        ("sample", "from ldm_jax import train", "a command"),
        ("evaluate", "from ldm_jax import sample", "a command"),
        ("exchange.plans", "from ldm_jax import generation", "import generation"),
        ("exchange.plans", "from ldm_jax import convert", "a command"),
        ("configs.demo", "import os", "import ldm_jax.config"),
        ("configs.demo", "def f(c):\n    return c.unet.get('a', 1)", ".get on a"),
        ("system", "x = config.unet.get('channels', 3)", ".get on a config"),
        ("system", "x = getattr(self.config, 'unet', None)", "getattr on a"),
        ("system", "try:\n    f()\nexcept:\n    g()", "name the exception"),
        (
            "system",
            "try:\n    f()\nexcept (KeyError, Exception):\n    g()",
            "name the exception",
        ),
        ("system", LONG, "f has 61 lines"),
        ("system", FACTORY, "g has 61 lines"),
        ("system", WIDE, "f takes 10 arguments"),
        ("system", "\n" * (MAX_FILE_LINES + 1), "has 351 lines"),
    ],
)
def test_a_broken_rule_is_found(module, text, words):
    (found,) = problems(module, text)
    assert words in found


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("train", "from ldm_jax import config, system\nfrom absl import flags"),
        ("configs.demo", "from ldm_jax import config\nc = config.autoencoder()"),
        ("denoise", "x = [getattr(c, port) for c in (cond, null)]"),
        ("system", "x = params.get('unet', {})"),
        ("system", "try:\n    f()\nexcept OSError:\n    g()"),
        ("system", LONG.replace("    x = 1\n", "", 1)),
        ("config", LONG),
    ],
)
def test_a_kept_rule_is_silent(module, text):
    assert problems(module, text) == []
