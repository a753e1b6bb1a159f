"""From tokens to a picture, as diffusers' pipelines go: DDIM with guidance."""

import dataclasses

import diffusers
from einops import rearrange
import jax
import jax.numpy as jnp
import numpy as np
import parity
import parity_models
import pytest
import torch

from ldm_jax import draws, knobs, system
from ldm_jax.exchange import released
from ldm_jax.models import clip

pytestmark = pytest.mark.parity

STEPS, SCALE = 10, 3.0
LATENT = (16, 16, 4)
SIZES = [1024.0, 768.0, 0.0, 64.0, 512.0, 896.0]

BETAS = dict(
    num_train_timesteps=1000,
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    clip_sample=False,
)
LEADING = dict(timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False)
TRAILING = dict(timestep_spacing="trailing", set_alpha_to_one=True)
# One of two levels that attends in both, as SD1 does with its heads.
SD1 = dataclasses.replace(
    parity_models.PAINT,
    sections={**parity_models.PAINT.sections, "cond_stage": parity.CLIP},
    arguments={**parity_models.PAINT.arguments, "in_channels": 4},
)


@pytest.fixture(autouse=True)
def encoders(monkeypatch):
    parity.tiny_encoders(monkeypatch)


def built(case, **sections):
    """(modules of torch, config, our parameters) of a whole model."""
    c = parity.config_of(**{**case.sections, **sections})
    modules = parity_models.torch_pipeline(case)
    wanted = released.rows(c, "diffusers")
    return modules, c, parity.read(wanted, parity_models.states(modules))


def ours(c, params, batch):
    """(the noise that sampling starts from, the picture)."""
    keys = jax.random.split(jax.random.key(0), 2)
    sample = jax.jit(system.build(c).sample)
    batch = {name: jnp.asarray(value) for name, value in batch.items()}
    return draws.initial_noise(keys, LATENT), sample(params, keys, batch, knobs.of(c))


def run(pipeline, z_T, **told):
    """The picture of a pipeline of diffusers; its own decoding would clip it."""
    pipeline.set_progress_bar_config(disable=True)
    z_T = torch.from_numpy(np.array(rearrange(z_T, "b h w c -> b c h w")))
    latents = pipeline(
        latents=z_T,
        height=32,
        width=32,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        output_type="latent",
        **told,
    ).images
    with torch.inference_mode():
        scale = pipeline.vae.config.scaling_factor
        return parity.nhwc(pipeline.vae.decode(latents / scale).sample)


@pytest.mark.parametrize("case, predicts", [(SD1, "eps"), (parity_models.SD2, "v")])
def test_stable_diffusion(case, predicts):
    modules, c, params = built(
        case,
        loss=dict(predicts=predicts),
        sample=dict(grid="ldm", steps=STEPS, scale=SCALE),
    )
    rows = parity.prompts(4, 30)
    z_T, picture = ours(c, params, {"tokens": rows})

    encoder = modules["text_encoder"]
    second = predicts == "v"  # SD2: the last block but one, then the last norm
    pad = 0 if second else clip.END

    def sequence(rows):
        with torch.inference_mode():
            said = encoder(parity.padded(rows, pad), output_hidden_states=True)
            if not second:
                return said.last_hidden_state
            norm = encoder.text_model.final_layer_norm
            return norm(said.hidden_states[-2])

    kind = {"eps": "epsilon", "v": "v_prediction"}[predicts]
    scheduler = diffusers.DDIMScheduler(**BETAS, **LEADING, prediction_type=kind)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=modules["vae"],
        text_encoder=encoder,
        tokenizer=None,
        unet=modules["unet"],
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    expected = run(
        pipeline,
        z_T,
        prompt_embeds=sequence(rows),
        negative_prompt_embeds=sequence(parity.prompts(0, 0)),
    )
    parity.assert_same(picture, expected, f"a picture of a model that predicts {kind}")


def test_sdxl():
    """Two encoders, pooled text and sizes, zeros for no text, and its own grid."""
    case = parity_models.XL
    modules, c, params = built(
        case, sample=dict(grid="trailing", steps=STEPS, scale=SCALE)
    )
    rows = parity.prompts(4, 30)
    micro = np.asarray([SIZES, SIZES], np.float32)
    z_T, picture = ours(c, params, {"tokens": rows, "micro": micro})

    with torch.inference_mode():
        first, second = (
            modules[folder](parity.padded(rows, pad), output_hidden_states=True)
            for folder, pad in (("text_encoder", clip.END), ("text_encoder_2", 0))
        )
    context = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=modules["vae"],
        text_encoder=modules["text_encoder"],
        text_encoder_2=modules["text_encoder_2"],
        tokenizer=None,
        tokenizer_2=None,
        unet=modules["unet"],
        scheduler=diffusers.DDIMScheduler(**BETAS, **TRAILING),
        add_watermarker=False,
    )
    expected = run(
        pipeline,
        z_T,
        prompt_embeds=context,
        negative_prompt_embeds=torch.zeros_like(context),
        pooled_prompt_embeds=second.text_embeds,
        negative_pooled_prompt_embeds=torch.zeros_like(second.text_embeds),
        original_size=tuple(SIZES[:2]),
        crops_coords_top_left=tuple(SIZES[2:4]),
        target_size=tuple(SIZES[4:]),
    )
    parity.assert_same(picture, expected, "a picture")
