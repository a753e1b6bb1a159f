"""A training step and a sampling step of every config as it ships: opt-in, by hours.

  python tests/full_steps.py [NAME ...] [--out=runs/full_steps.jsonl]

NAME is file:variant, as in test_configs.py; none means all. Each has its full width, a
batch of one, a small latent, and random parameters and inputs, in a process of its own,
so that memory holds one at a time. A JSON line each goes to --out; the same command
again goes on where it was cut off, and repeats what was made by other code. Ends with
status 1 if one failed.

What differs from a shipped config, beside its size: the rate starts at its height,
without weight decay, so that gradients alone move the parameters; a discriminator
plays from the first step, and LPIPS has random weights. Where the shipped optimizer
does not fit in --memory_gb, SGD without an average trains, by a step of norm 1. Where
that does not fit either, the training step is lowered and not run, and the parts of its
UNet go forward and backward one by one.
"""

import argparse
import ast
import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
import zlib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# ruff: noqa: E402 - the path comes first
import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldm_jax import config as config_lib
from ldm_jax import (
    control,
    first_stage,
    judge_loss,
    knobs,
    names,
    optim,
    pictures,
    train_step,
    trees,
)
from ldm_jax import system as system_lib
from ldm_jax.models import clip, perceptual

GB, KIB = 1e9, 1024
DONE = ("ok", "lowered")
SHOWN = 5  # names of parameters in a row
PIXELS = 64  # a side, of first stages and judges: the discriminators need 24
# Bytes that a compiled step takes for each trained parameter; AdamW keeps 16 of them:
# itself, two moments and the average. A frozen one takes 4, REST is all the rest.
SGD = "sgd without ema"
OWN_BYTES, SGD_BYTES, REST = 28, 12, 1.5 * GB
# A program runs once: half the time goes into it with LLVM's optimizations.
QUICK = {"xla_backend_optimization_level": 0}


@dataclasses.dataclass(frozen=True)
class Case:
    """A config that is small but for its widths, and the shapes of its parameters."""

    config: object
    system: system_lib.System
    trained: dict
    frozen: dict  # with LPIPS' where the loss asks for it

    @property
    def bytes_frozen(self):
        return 4 * helpers.count(self.frozen)

    @property
    def bytes(self):
        return 4 * helpers.count(self.trained) + self.bytes_frozen


def variants(folder):
    """{"file:variant": (path, arguments of get_config)} of a folder of config files."""
    return {
        f"{path.stem}:{variant}": (path, (variant,) * bool(variant))
        for path in sorted(folder.glob("*.py"))
        for variant in getattr(loaded(path), "VARIANTS", ("",))
    }


def loaded(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_of(path):
    """A hash of a config's file and of the modules of ldm_jax that this one imports."""
    found, unread = {path}, [HERE / "full_steps.py"]
    while unread:
        new = imports(unread.pop()) - found
        found |= new
        unread += new
    texts = [file.read_bytes() for file in sorted(found)]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]


@functools.cache
def imports(path):
    """The files that a file names by `from ldm_jax... import module`."""
    return {
        ROOT.joinpath(*node.module.split("."), f"{alias.name}.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("ldm_jax")
        for alias in node.names
    }


def shrunk(config):
    """One small picture, of which the UNet's last level still has two places a side."""
    c = config.copy_and_resolve_references()
    c.data.update(image_size=PIXELS, batch_size=1)
    if c.task == "latent_diffusion":
        factor = first_stage.arch(c.first_stage).factor
        c.data.image_size = factor * 2 ** len(c.unet.mult)
        c.sample.steps = 1
    if c.task == "autoencoder":
        c.loss.disc_start = 0
    c.train.update(accumulate=1, pictures=1)
    c.optim.update(start_factor=1.0, weight_decay=0.0)
    return config_lib.check(c)


def case_of(config):
    small = shrunk(config)
    system = system_lib.build(small)
    rng = jax.random.key(0, impl="unsafe_rbg")  # the quickest to trace
    shapes = jax.eval_shape(system.init, rng)
    trained, frozen = trees.split(shapes, small.train.trainable)
    if small.task == "autoencoder" and small.loss.perceptual_weight:
        frozen["perceptual"] = perceptual.shapes(small.loss.perceptual)
    return Case(small, system, trained, frozen)


def latent_side(config):
    """Places a side of a first stage's latent, or of what a judge says."""
    size = config.data.image_size
    if config.task == "judge":
        return size // config.judge.patch
    return size // first_stage.arch(config.first_stage).factor


def batch_of(case):
    """A random batch: every number is one that the model may be told."""
    gen, config = np.random.default_rng(0), case.config
    below = dict(image=256, low_res=256, mask=2)
    if config.task == "judge":
        things, objects = judge_loss.THINGS, system_lib.OBJECTS
        below |= dict(instances=objects + 1, sprites=things - 1)
        below |= dict(segmentation=judge_loss.SEGMENTS, depth=2, joints=2)
    if config.task == "latent_diffusion":
        cond = config.cond_stage
        below |= dict(tokens=cond.vocab, segmentation=cond.classes)
        below |= dict.fromkeys(map(control.key, config.control.hints), 256)
        below |= dict(label=cond.classes - (cond.drop > 0))  # not the null

    def draw(name, s):
        if name == "micro":  # sizes, in pixels
            return gen.uniform(0, 1024, s.shape).astype(s.dtype)
        return gen.integers(0, below[name], s.shape).astype(s.dtype)

    batch = {name: draw(name, s) for name, s in case.system.batch.items()}
    if config.task == "latent_diffusion" and config.cond_stage.kind == "clip":
        batch["tokens"] %= clip.START
        batch["tokens"][:, [0, -1]] = clip.START, clip.END
    return batch


def chosen(case, limit):
    """The optimizer that fits in so many bytes: the config's, SGD, or "": none."""
    count, own = helpers.count(case.trained), case.config.optim.optimizer
    for name, each in {own: OWN_BYTES, SGD: SGD_BYTES}.items():
        if each * count + case.bytes_frozen + REST <= limit:
            return name
    return ""


def lowered(case, optimizer):
    """(the training step, lowered from shapes; parameters -> its TrainState)."""
    told, train = case.config.optim, case.config.train
    if optimizer == SGD:
        # Of norm 1: a small gradient must be seen in the precision of its parameter.
        tx = optax.chain(optax.normalize_by_update_norm(), optax.sgd(1.0))
        rate, average = optax.constant_schedule(1.0), dict(ema_decay=0.0)
    else:
        tx, rate = optim.make(told), optim.learning_rate(told)
        average = dict(ema_decay=train.ema_decay, ema_std=train.ema_std)
    step = train_step.make_train_step(
        case.system.grads,
        tx,
        rate,
        seed=case.config.seed,
        accumulate=1,
        after_step=case.system.after_step,
        **average,
    )

    def begin(params):
        extra = case.system.init_extra(params)
        return train_step.init_state(params, extra, tx, any(average.values()))

    state = jax.eval_shape(begin, case.trained)
    step = jax.jit(step, donate_argnums=0)
    return step.lower(state, case.frozen, case.system.batch), begin


def sums(params):
    """{path: a checksum of the array}."""
    # Not by np.asarray, whose view the array keeps: it could not be donated then.
    flat = trees.flatten(params)
    return {path: zlib.crc32(np.from_dlpack(x)) for path, x in flat.items()}


def compiled(program, limit):
    """A lowered program, to be run; MemoryError where it takes more than `limit`."""
    run = program.compile(QUICK)
    plan = run.memory_analysis()
    need = plan.argument_size_in_bytes + plan.temp_size_in_bytes
    if need > limit:
        raise MemoryError(f"it takes {need / GB:.1f} GB, there are {limit / GB:.1f}")
    return run


def trained(case, optimizer, limit):
    """(parameters to sample from after one step, what a row says, what is wrong)."""
    began = time.perf_counter()
    program, begin = lowered(case, optimizer)
    step = compiled(program, limit)
    compile_s = time.perf_counter() - began
    frozen = helpers.random_params(case.frozen)
    params = helpers.random_params(case.trained)
    before, state = sums(params), begin(params)
    del params
    began = time.perf_counter()
    state, said = jax.block_until_ready(step(state, frozen, batch_of(case)))
    train_s = time.perf_counter() - began
    loss, norm = float(said["loss"]), float(said["grad_norm"])
    still = [path for path, now in sums(state.params).items() if now == before[path]]
    wrong = {
        f"the loss is {loss}": not np.isfinite(loss),
        f"the gradients' norm is {norm}": not 0 < norm < np.inf,
        "the step was skipped": int(said["bad_steps"]) > 0,
        "parameters stay as they were": not all(unheard(case, path) for path in still),
    }
    told = dict(loss=loss, grad_norm=norm, unchanged=len(still))
    told |= dict(unchanged_names=still[:SHOWN], train_s=train_s, compile_s=compile_s)
    params = trees.merge(state.ema or state.params, frozen)
    return params, told, [what for what, is_so in wrong.items() if is_so]


def unheard(case, path):
    """Whether a parameter has no gradient: one token is attended to in any case."""
    config = case.config
    by_label = config.task == "latent_diffusion" and config.cond_stage.kind == "label"
    return by_label and "cross/" in path


def drawing(case):
    """(function of params, keys, batch and knobs, the shapes of its arrays by name).

    One sampling step, a reconstruction, or what a judge says: the model's use.
    """
    config, system = case.config, case.system

    def reconstruct(params, keys, batch, told):
        x = pictures.to_float(batch["image"])
        return system.decode(params, system.encode(params, keys, x))

    def judge(params, keys, batch, told):
        return system.judge(params, pictures.to_float(batch["image"]))

    picture = {"": system.batch["image"].shape}
    if config.task != "judge":
        return system.sample or reconstruct, picture
    side, patch = latent_side(config), config.judge.patch
    heads = {name: judge_loss.HEADS[name] for name in config.judge.reads}
    counts = {name: head.channels(patch) for name, head in heads.items()}
    return judge, {name: (1, side, side, count) for name, count in counts.items()}


def sampler(case, limit):
    """(params -> (what a row says, what is wrong) of `drawing`), compiled."""
    function, shapes = drawing(case)
    told = knobs.of(case.config) if case.system.sample else {}
    inputs = jax.random.split(jax.random.key(1), 1), batch_of(case), told
    began = time.perf_counter()
    params = trees.merge(case.trained, case.frozen)
    run = compiled(jax.jit(function).lower(params, *inputs), limit)
    compile_s = time.perf_counter() - began

    def sampled(params):
        began = time.perf_counter()
        x = trees.flatten(jax.block_until_ready(run(params, *inputs)))
        sample_s = time.perf_counter() - began
        found = {name: array.shape for name, array in x.items()}
        wrong = {
            f"a sample is {found}, not {shapes}": found != shapes,
            "a sample is not finite": not all(map(is_finite, x.values())),
        }
        told = dict(sample_compile_s=compile_s, sample_s=sample_s)
        return told, [what for what, is_so in wrong.items() if is_so]

    return sampled


def is_finite(array):
    return bool(jnp.isfinite(array).all())


def parts(case):
    """{name: (module, shapes of its arrays)} of the UNet's parts that differ.

    A part is a block, a convolution, a norm or a layer right below UNet or Trunk.
    """
    plain = case.config.copy_and_resolve_references()
    plain.unet.remat = False  # which wraps the blocks
    system, side, found = system_lib.build(plain), latent_side(plain), {}
    params = trees.merge(case.trained, case.frozen)
    z_t = jax.ShapeDtypeStruct((1, side, side, plain.unet.out_channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    cond = jax.eval_shape(system.condition, params, system.batch)

    def note(run, args, kwargs, context):
        *above, name = context.module.path or ("trunk",)
        if name != "trunk" and above in ([], ["trunk"]):
            arrays = [x for x in args if isinstance(x, jax.Array)]
            told = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays]
            found[name] = context.module.clone(parent=None, name=None), told
        return run(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(system.denoise, params, z_t, t, cond)
    return dict({alike(*part): (name, part) for name, part in found.items()}.values())


def alike(module, told):
    """What two parts that compute the same have in common, as text."""
    fields = {f.name: getattr(module, f.name) for f in dataclasses.fields(module)}
    fields = {name: value for name, value in fields.items() if not callable(value)}
    return f"{type(module).__name__} {fields} {told}"


def there_and_back(module, told, remat):
    """The paths of a part's parameters whose gradient is 0 or not finite."""
    inputs = [helpers.normal(i, *s.shape) for i, s in enumerate(told)]
    params = helpers.random_params(helpers.init_shapes(module, *inputs))

    def loss(params, *inputs):
        return jnp.mean(jnp.square(module.apply({"params": params}, *inputs)))

    slope = jax.grad(jax.checkpoint(loss) if remat else loss, range(1 + len(inputs)))
    slopes = jax.jit(slope)(params, *inputs)
    norms = {path: jnp.linalg.norm(x) for path, x in trees.flatten(slopes).items()}
    return [path for path, norm in norms.items() if not 0 < norm < jnp.inf]


def in_parts(case):
    """(what a row says, what is wrong) of a step that is lowered and run in parts."""
    began = time.perf_counter()
    lowered(case, SGD)
    compile_s, still, found = time.perf_counter() - began, [], parts(case)
    for name, (module, told) in found.items():
        wrong = there_and_back(module, told, case.config.unet.remat)
        still += [f"{name}/{path}" for path in wrong]
    told = dict(blocks=len(found), unchanged=len(still), unchanged_names=still[:SHOWN])
    told |= dict(train_s=time.perf_counter() - began - compile_s, compile_s=compile_s)
    return told, ["parts without a gradient"] * bool(still)


def facts(config, limit):
    """What a row says of a config that has so many bytes, but its name and code."""
    case = case_of(config)
    optimizer = chosen(case, limit)
    # Before there are parameters, as compiling takes memory too.
    sampled = sampler(case, limit) if case.bytes + REST <= limit else None
    if optimizer:
        params, told, wrong = trained(case, optimizer, limit)
    else:
        told, wrong = in_parts(case)
        params = trees.merge(case.trained, case.frozen)
        params = helpers.random_params(params) if sampled else None
    drawn, wrong_too = sampled(params) if sampled else (dict(sample_s=None), [])
    own = {role: tree for role, tree in case.frozen.items() if role != "perceptual"}
    wrong += wrong_too
    return {
        "status": "failed" if wrong else "ok" if optimizer else "lowered",
        **({"error": "; ".join(wrong)} if wrong else {}),
        "parameters": helpers.count((case.trained, own)),
        "optimizer": optimizer or SGD,
        "latent": latent_side(case.config),
        **({"perceptual": "random"} if "perceptual" in case.frozen else {}),
        **told,
        **drawn,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB / GB,
    }


def rows(path):
    """The rows of a file; a line that was cut off is none."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def append(path, row):
    """Adds a row, on a line of its own whatever was cut off before it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    cut = "\n" if before and not before.endswith("\n") else ""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{cut}{json.dumps(row)}\n")


def made(name, path, told):
    """The row of a config, by a process of its own."""
    command = [sys.executable, __file__, "--row", name]
    command += [f"--memory_gb={told.memory_gb}", f"--folder={told.folder}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode == 0:
        return json.loads(found.stdout.splitlines()[-1])
    sys.stderr.write(found.stderr)
    last = ["", *found.stderr.strip().splitlines()][-1]
    error = f"status {found.returncode}: {last}"
    return dict(config=name, code=code_of(path), status="failed", error=error)


def run(asked, told):
    """Appends the rows of configs that --out lacks; True if none failed."""
    done = {(r["config"], r["code"]) for r in rows(told.out) if r["status"] in DONE}
    failed = []
    for name, (path, _) in asked.items():
        if (name, code_of(path)) in done:
            print(f"{name} skipped: {told.out} has it, by this code", flush=True)
            continue
        began = time.perf_counter()
        row = made(name, path, told)
        append(told.out, row)
        said = f"{name} {row['status']} after {time.perf_counter() - began:.0f} s"
        if row["status"] not in DONE:
            failed.append(name)
            said += f": {row['error']}"
        print(said, flush=True)
    print(f"failed: {', '.join(failed) or 'none'} of {len(asked)}", flush=True)
    return not failed


def arguments(told):
    """(flags, {name: (path, arguments of get_config)}) of a command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="file:variant")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("runs/full_steps.jsonl")
    )
    parser.add_argument("--memory_gb", type=float, default=20.0, help="of a process")
    parser.add_argument(
        "--folder", type=pathlib.Path, default=ROOT / "configs", help="of the configs"
    )
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args(told)
    found = variants(flags.folder)
    asked = [name if ":" in name else f"{name}:" for name in flags.names]
    try:
        return flags, {name: names.pick(found, name) for name in asked or found}
    except ValueError as error:
        parser.error(str(error))


def main():
    flags, asked = arguments(sys.argv[1:])
    if flags.row:
        ((name, (path, variant)),) = asked.items()
        row = dict(config=name, code=code_of(path))
        config = loaded(path).get_config(*variant)
        print(json.dumps(row | facts(config, GB * flags.memory_gb)))
        return
    # Like an interrupt: an exception ends the process of a row, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(not run(asked, flags))


if __name__ == "__main__":
    main()
