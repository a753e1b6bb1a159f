"""What a run refuses to go on with."""

import commands
import pytest
import tiny_text_to_image

from ldm_jax import frozen, runs


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
