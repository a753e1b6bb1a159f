"""The JSON files of a diffusers folder: what its loaders must know of a config."""

import json

from ldm_jax import paths
from ldm_jax import system as system_lib
from ldm_jax.data import clip_tokenize
from ldm_jax.exchange import released

VERSION = "0.35.0"  # of diffusers: what the files below are written for


def files(config):
    """{path in the folder: text} of everything but the weights."""
    told = {"model_index.json": model_index(config)}
    told["scheduler/scheduler_config.json"] = scheduler(config)
    told["unet/config.json"] = unet(config)
    told["vae/config.json"] = vae(config)
    encoders = system_lib.encoders(config)
    for name, folder in released.encoder_folders(config).items():
        told[f"{folder}/config.json"] = text_encoder(encoders[name], config)
    written = {path: json.dumps(value, indent=2) + "\n" for path, value in told.items()}
    return written | _tokenizers(config, encoders)


def check(config):
    """Raises ValueError for what the classes of these files do not describe."""
    unet, stage = config.unet, config.first_stage
    plain = {
        "unet.scale_shift": (unet.scale_shift, False),
        "unet.resblock_updown": (unet.resblock_updown, False),
        "unet.attention": (unet.attention, "transformer"),
        "first_stage.kind": (stage.kind, "kl"),
        "first_stage.attention": (stage.attention, (0,) * len(stage.mult)),
        "first_stage.mid_attention": (stage.mid_attention, True),
        "first_stage.embed_channels": (stage.embed_channels, stage.z_channels),
    }
    for key, (value, wanted) in plain.items():
        if value != wanted:
            raise ValueError(
                f"{key} is {value!r}: a diffusers folder is written for {wanted!r} "
                "alone; use --layout=original"
            )
    if is_xl(config) and config.cond_stage.inpaint:
        raise ValueError("SDXL in-painting has no diffusers folder here")


def is_xl(config):
    """SDXL, base or refiner: text and sizes join the time embedding."""
    return bool(config.cond_stage.micro)


def is_refiner(config):
    return "aesthetic" in config.cond_stage.micro


def model_index(config):
    """Which pipeline, and the class of each component."""
    kinds = {
        (False, False): "StableDiffusionPipeline",
        (True, False): "StableDiffusionXLPipeline",
        (True, True): "StableDiffusionXLImg2ImgPipeline",
    }
    kind = kinds[is_xl(config), is_refiner(config)]
    if config.cond_stage.inpaint:
        kind = "StableDiffusionInpaintPipeline"
    index = {
        "_class_name": kind,
        "_diffusers_version": VERSION,
        "feature_extractor": [None, None],
        "scheduler": ["diffusers", scheduler(config)["_class_name"]],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if not is_xl(config):
        index |= {"safety_checker": [None, None], "requires_safety_checker": False}
    else:
        index["image_encoder"] = [None, None]
        index["force_zeros_for_empty_prompt"] = not config.cond_stage.null_tokens
        index |= {"text_encoder": [None, None], "tokenizer": [None, None]}
    if is_refiner(config):
        index["requires_aesthetics_score"] = True
    for name, folder in released.encoder_folders(config).items():
        shape = system_lib.encoders(config)[name]
        index[folder] = ["transformers", _text_class(shape)]
        index[folder.replace("text_encoder", "tokenizer")] = [
            "transformers",
            "CLIPTokenizer",
        ]
    return index


def _text_class(shape):
    return "CLIPTextModelWithProjection" if shape.projection else "CLIPTextModel"


def scheduler(config):
    """LDM's DDIM, and for SDXL Euler's method; both are the released folders' noise."""
    predicts = {"eps": "epsilon", "v": "v_prediction", "z_0": "sample"}
    told = {
        "_class_name": "EulerDiscreteScheduler" if is_xl(config) else "DDIMScheduler",
        "_diffusers_version": VERSION,
        "beta_end": config.schedule.beta_end,
        "beta_schedule": "scaled_linear",
        "beta_start": config.schedule.beta_start,
        "num_train_timesteps": config.schedule.num_timesteps,
        "prediction_type": predicts[config.loss.predicts],
        "steps_offset": 1,
        "timestep_spacing": "leading",
    }
    if config.schedule.zero_terminal:
        told |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if not is_xl(config):
        told |= {"clip_sample": False, "set_alpha_to_one": False}
    return told


def unet(config):
    """Of UNet2DConditionModel. Its attention_head_dim counts heads, by level."""
    c = config.unet
    if c.depths[-1] not in (0, c.mid_depth):
        raise ValueError(
            f"unet.mid_depth {c.mid_depth} differs from the last of unet.depths "
            f"{c.depths}: diffusers has one number for both"
        )
    widths = [c.channels * factor for factor in c.mult]
    depths = [depth or 1 for depth in c.depths[:-1]] + [c.mid_depth]
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in c.depths]
    up = ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in c.depths[::-1]]
    encoders = system_lib.encoders(config).values()
    factor = system_lib.arch_of_first_stage(config).factor
    masked = 1 + config.first_stage.embed_channels if config.cond_stage.inpaint else 0
    told = {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": VERSION,
        "act_fn": "silu",
        "attention_head_dim": [c.heads or width // c.head_channels for width in widths],
        "block_out_channels": widths,
        "cross_attention_dim": sum(encoder.width for encoder in encoders),
        "down_block_types": down,
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": c.out_channels + masked,
        "layers_per_block": c.blocks,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": c.groups,
        "out_channels": c.out_channels,
        "sample_size": config.data.image_size // factor,
        "transformer_layers_per_block": depths,
        "up_block_types": up,
        "use_linear_projection": released.is_linear(config),
    }
    if is_xl(config):
        told["addition_embed_type"] = "text_time"
        told["addition_time_embed_dim"] = system_lib.MICRO_WIDTH
        told["projection_class_embeddings_input_dim"] = system_lib.vector_width(config)
    return told


# Of a UNet's file, what a ControlNetModel's does not have.
UNBRANCHED = ("out_channels", "sample_size", "up_block_types")


def branch(config):
    """{"config.json": text}: a ControlNetModel for a config's UNet, a folder alone."""
    told = {k: v for k, v in unet(config).items() if k not in UNBRANCHED}
    told |= {
        "_class_name": "ControlNetModel",
        "conditioning_channels": 3,
        "conditioning_embedding_out_channels": list(config.control.channels),
        "controlnet_conditioning_channel_order": "rgb",
    }
    return {"config.json": json.dumps(told, indent=2) + "\n"}


def vae(config):
    """Of AutoencoderKL."""
    c = config.first_stage
    levels = len(c.mult)
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": VERSION,
        "act_fn": "silu",
        "block_out_channels": [c.channels * factor for factor in c.mult],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "force_upcast": is_xl(config),
        "in_channels": 3,
        "latent_channels": c.z_channels,
        "layers_per_block": c.blocks,
        "norm_num_groups": c.groups,
        "out_channels": 3,
        "sample_size": config.data.image_size,
        "scaling_factor": c.scale,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def text_encoder(shape, config):
    """Of CLIPTextModel and CLIPTextModelWithProjection."""
    return {
        "architectures": [_text_class(shape)],
        "attention_dropout": 0.0,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "hidden_act": shape.activation,
        "hidden_size": shape.width,
        "intermediate_size": 4 * shape.width,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.depth,
        "pad_token_id": shape.pad,
        "projection_dim": shape.projection or shape.width,
        "vocab_size": shape.vocab,
    }


def _tokenizers(config, encoders):
    """The files of CLIPTokenizer, once for each encoder: they fill up differently."""
    merges = clip_tokenize.read_merges(paths.resolve(config.cond_stage.vocabulary))
    pieces = [*clip_tokenize.vocabulary(merges), "<|startoftext|>", "<|endoftext|>"]
    vocab = json.dumps({piece: i for i, piece in enumerate(pieces)}, ensure_ascii=False)
    lines = "".join(f"{a} {b}\n" for a, b in merges)
    found = {}
    for name, folder in released.encoder_folders(config).items():
        special = {
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "pad_token": pieces[encoders[name].pad],
            "unk_token": "<|endoftext|>",
        }
        told = special | {
            "add_prefix_space": False,
            "do_lower_case": True,
            "model_max_length": 77,
            "tokenizer_class": "CLIPTokenizer",
        }
        place = folder.replace("text_encoder", "tokenizer")
        found[f"{place}/vocab.json"] = vocab
        found[f"{place}/merges.txt"] = f"#version: 0.2\n{lines}"
        found[f"{place}/special_tokens_map.json"] = json.dumps(special, indent=2)
        found[f"{place}/tokenizer_config.json"] = json.dumps(told, indent=2)
    return found
