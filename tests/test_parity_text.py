"""The text encoders say what transformers', open_clip's and diffusers' say."""

import dataclasses

import helpers
import jax.numpy as jnp
import numpy as np
import parity
import parity_models
import pytest
import torch

from ldm_jax.models import clip, text

pytestmark = pytest.mark.parity

# Prompts of several lengths, the empty and a full one among them.
LENGTHS = (0, 3, 20, 75)


@pytest.fixture(autouse=True)
def encoders(monkeypatch):
    parity.tiny_encoders(monkeypatch)


def given(pad):
    """The prompts as torch is given them."""
    return parity.padded(parity.prompts(*LENGTHS), pad)


def ours(encoder, params, skip, final_norm):
    net = clip.TextEncoder(encoder, skip, final_norm)
    return helpers.apply(net, params, jnp.asarray(parity.prompts(*LENGTHS)))


@pytest.mark.parametrize("end", [2, clip.END])  # 2: old files, another way to find it
def test_clip_l(end):
    """SD1's: the last block and its norm. SDXL's: the last block but one, without."""
    encoder = parity.ENCODERS["clip_tiny"]
    c = parity.config_of(cond_stage=parity.CLIP, unet=dict(depths=(0, 1)))
    for gain in parity.GAINS:
        model = parity_models.torch_text(encoder, end, gain)
        with torch.inference_mode():
            said = model(given(clip.END), output_hidden_states=True)
        role = "cond_stage/clip_tiny"
        params = parity.params(c, "diffusers", parity_models.as_released(model), role)
        sequence, pooled = ours(encoder, params, 0, True)
        assert pooled is None
        expected = parity.plain(said.last_hidden_state)
        parity.assert_same(sequence, expected, f"the last at gain {gain}")
        sequence, _ = ours(encoder, params, 1, False)
        expected = parity.plain(said.hidden_states[-2])
        parity.assert_same(sequence, expected, f"the last but one at gain {gain}")


@pytest.mark.parametrize("end", [2, clip.END])
def test_openclip_of_transformers(end):
    """As folders of diffusers keep it: SDXL's second encoder, with its pooled text."""
    encoder = parity.ENCODERS["openclip_tiny"]
    c = parity.config_of(cond_stage=parity.XL, unet=dict(depths=(0, 1)))
    for gain in parity.GAINS:
        model = parity_models.torch_text(encoder, end, gain)
        with torch.inference_mode():
            said = model(given(0), output_hidden_states=True)
        role = "cond_stage/openclip_tiny"
        params = parity.params(c, "diffusers", parity_models.as_released(model), role)
        sequence, pooled = ours(encoder, params, 1, False)
        expected = parity.plain(said.hidden_states[-2])
        parity.assert_same(sequence, expected, f"the last but one at gain {gain}")
        expected = parity.plain(said.text_embeds)
        parity.assert_same(pooled, expected, f"pooled at gain {gain}")


def test_openclip_h_of_transformers():
    """SD2's folders leave the last block out, and norm the one before."""
    encoder = dataclasses.replace(parity.ENCODERS["openclip_tiny"], depth=2)
    short = dataclasses.replace(encoder, projection=0)
    model = parity_models.torch_text(short, clip.END, 1.0)
    with torch.inference_mode():
        said = model(given(0)).last_hidden_state
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(clip.ENCODERS, "openclip_tiny", short)
        c = parity.config_of(cond_stage=parity.OPENCLIP, unet=dict(depths=(0, 1)))
        role = "cond_stage/openclip_tiny"
        params = parity.params(c, "diffusers", parity_models.as_released(model), role)
    sequence, _ = ours(short, params, 0, True)
    parity.assert_same(sequence, parity.plain(said), "the last")


def test_openclip_of_open_clip():
    """SD2's, as FrozenOpenCLIPEmbedder runs it, and the pooled text of SDXL."""
    encoder = parity.ENCODERS["openclip_tiny"]
    c = parity.config_of(cond_stage=parity.OPENCLIP, unet=dict(depths=(0, 1)))
    for gain in parity.GAINS:
        model = parity.open_clip_transformer().TextTransformer(
            width=encoder.width,
            heads=encoder.heads,
            layers=encoder.depth,
            output_dim=encoder.projection,
        )
        parity.fill(model, gain)
        with torch.inference_mode():
            tokens = given(0)
            h, mask = model._embeds(tokens)
            for block in model.transformer.resblocks[:-1]:
                h = block(h, attn_mask=mask)
            expected, pool = (
                parity.plain(model.ln_final(h)),
                parity.plain(model(tokens)),
            )
        role = "cond_stage/openclip_tiny"
        state = model.state_dict()
        state = {f"cond_stage_model.model.{name}": state[name] for name in state}
        params = parity.params(c, "original", state, role)
        sequence, pooled = ours(encoder, params, 1, True)
        parity.assert_same(sequence, expected, f"the last but one at gain {gain}")
        parity.assert_same(pooled, pool, f"pooled at gain {gain}")
        sequence, _ = ours(encoder, params, 1, False)
        parity.assert_same(sequence, parity.plain(h), f"without norm at gain {gain}")


def test_ldm_bert():
    """Attention is 512 wide whatever the width, and padding is like other words."""
    shape = dict(vocab=300, length=20, width=64, depth=3, heads=8, head_channels=64)
    c = parity.config_of(
        cond_stage=dict(kind="text", null_tokens=(101, 102), **shape),
        unet=dict(depths=(0, 1)),
    )
    net = text.TextTransformer(**shape)
    rows = np.random.default_rng(0).integers(1, 300, (3, 20))
    rows[1, 12:] = 0
    rows[2, 3:] = 0
    for gain in parity.GAINS:
        model = parity_models.torch_bert(
            vocab_size=300,
            max_position_embeddings=20,
            d_model=64,
            encoder_ffn_dim=256,
            encoder_layers=3,
        )
        parity.fill(model, gain)
        with torch.inference_mode():
            expected = parity.plain(model(torch.from_numpy(rows)).last_hidden_state)
        name = parity_models.original_bert_name
        state = {name(key): leaf for key, leaf in model.state_dict().items()}
        params = parity.params(c, "original", state, "cond_stage")
        found = helpers.apply(net, params, jnp.asarray(rows))
        parity.assert_same(found, expected, f"at gain {gain}")
