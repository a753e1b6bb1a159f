"""What a run refuses to go on with."""

import commands
import jax
import numpy as np
import pytest
import tiny_text_to_image

from ldm_jax import checkpoint, frozen, runs, system


def config_with(stage):
    c = tiny_text_to_image.get_config()
    c.first_stage.weights = str(stage)
    return c


def test_a_run_on_the_latents_of_another_first_stage_is_refused(tmp_path):
    config = config_with(commands.first_stage(tmp_path / "stage.safetensors"))
    meta = {"first_stage": frozen.digest(config)}
    runs.check_files(config, "runs/x", meta)
    with pytest.raises(ValueError, match=r"runs/x.*0123.*is now"):
        runs.check_files(config, "runs/x", {"first_stage": "0123"})
    commands.first_stage(tmp_path / "stage.safetensors", scale=1.5)
    with pytest.raises(ValueError, match="trained on the latents"):
        runs.check_files(config, "runs/x", meta)


def test_the_checkpoint_of_a_step_is_taken_instead_of_the_newest(tmp_path):
    config = config_with(commands.first_stage(tmp_path / "stage.safetensors"))
    init = runs.initial_state(config, system.build(config))
    shapes = jax.eval_shape(init, jax.random.key(0))
    manager = checkpoint.open(tmp_path / "run" / "checkpoints")
    for step in (5, 9):
        filled = jax.tree.map(lambda s, step=step: np.full(s.shape, step), shapes)
        filled = jax.tree.map(lambda x, s: x.astype(s.dtype), filled, shapes)
        checkpoint.save(manager, step, jax.device_put(filled), runs.about(config, step))
    manager.close()
    for asked, wanted in ((None, 9), (5, 5)):
        params, step = runs.latest_params(config, tmp_path / "run", asked)
        assert step == wanted
        assert all((x == wanted).all() for x in jax.tree.leaves(params))
    with pytest.raises(FileNotFoundError, match=r"of step 3; there are \[5, 9\]"):
        runs.latest_params(config, tmp_path / "run", 3)
