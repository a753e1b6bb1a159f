"""What training a control branch costs beside fine-tuning its base.

  python -m benchmarks.control
  python -m benchmarks.control --sd --topology=v5e:2x2

Both train on the same batch of pictures, hints and captions: "fine_tune" every weight
of the UNet, "control" a ControlNet over the locked UNet, with the optimizer of the
config and no average. Of each a line of JSON: seconds of a step (the median of
interleaved rounds), the bytes that the compiled step holds (arguments, results that are
not their place, temporaries) and its FLOPs, and what control costs more in percent. The
paper (Zhang et al., 2023, section 3.3) says 34% more time and 23% more memory.

--sd is Stable Diffusion 1.5 at 512 pixels, which is compiled and counted but not run;
--topology compiles for TPUs that are not attached (pip install libtpu).
"""

import json
import statistics

from absl import app, flags
import jax
from jax.experimental import topologies

from benchmarks import steps
from configs import controlnet, demo_control
from ldm_jax import config as config_lib
from ldm_jax import runs, sharding, train_step, trees
from ldm_jax import system as system_lib

ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed rounds.", lower_bound=1)
BATCH = flags.DEFINE_integer("batch_size", 4, "Pictures at once.", lower_bound=1)
SD = flags.DEFINE_bool("sd", False, "Stable Diffusion 1.5; compiled, not run.")
DTYPE = flags.DEFINE_string("dtype", "float32", "Of the arithmetic.")
TOPOLOGY = flags.DEFINE_string("topology", None, "Compile for one chip of this TPU.")
UNHINTED = {
    "control.hints": (),
    "control.channels": (16, 32, 96, 256),
    "train.trainable": ("unet",),
    "train.frozen_dtype": "float32",
}


def configured():
    """{what is trained: its config}."""
    made = controlnet if SD.value else demo_control
    c = made.get_config()
    c.data.batch_size = BATCH.value
    c.train.update(ema_decay=0.0, pictures=BATCH.value)
    c.unet.dtype = c.cond_stage.dtype = c.first_stage.dtype = DTYPE.value
    other = c.copy_and_resolve_references()
    other.update_from_flattened_dict(UNHINTED)
    configs = {"fine_tune": other, "control": c}
    return {name: config_lib.check(x) for name, x in configs.items()}


def compiled(config, place):
    """The step of a config, from shapes alone."""
    system = system_lib.build(config)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    trained, frozen = trees.split(shapes, config.train.trainable)
    stage = frozen.pop("first_stage")  # which is not narrowed, as in runs.prepare
    frozen = {"first_stage": stage} | jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, config.train.frozen_dtype), frozen
    )
    tx, rate = runs.optimizer(config)
    step = train_step.make_train_step(
        system.grads, tx, rate, seed=0, ema_decay=0.0, accumulate=1
    )
    state = jax.eval_shape(
        lambda params: train_step.init_state(params, {}, tx, False), trained
    )
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        (state, frozen, system.batch),
    )
    return jax.jit(step, donate_argnums=0).lower(*placed).compile()


def held(program):
    """Bytes: arguments, temporaries, and results that take no argument's place."""
    told = program.memory_analysis()
    return (
        told.argument_size_in_bytes
        + told.temp_size_in_bytes
        + told.output_size_in_bytes
        - told.alias_size_in_bytes
    )


def devices():
    if TOPOLOGY.value is None:
        return jax.devices()[:1]
    return topologies.get_topology_desc(TOPOLOGY.value, "tpu").devices[:1]


def main(argv):
    del argv
    place = sharding.replicated(sharding.make_mesh(1, devices()))
    configs = configured()
    rows = {}
    for name, config in configs.items():
        program = compiled(config, place)
        flops = program.cost_analysis()["flops"]
        rows[name] = {"bytes": held(program), "flops": flops}
    if not (SD.value or TOPOLOGY.value):
        timed = {name: steps.training(config) for name, config in configs.items()}
        for name, values in steps.rounds(timed, ROUNDS.value).items():
            rows[name]["seconds"] = statistics.median(values)
    for name, row in rows.items():
        print(json.dumps({"trains": name} | row), flush=True)
    base, ours = rows["fine_tune"], rows["control"]
    more = {key: 100 * (ours[key] / base[key] - 1) for key in base}
    print(json.dumps({"more_percent": more, "batch_size": BATCH.value}), flush=True)


if __name__ == "__main__":
    app.run(main)
