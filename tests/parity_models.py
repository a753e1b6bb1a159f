"""Small modules of diffusers and transformers, and the config of ours for each."""

from collections.abc import Callable
import dataclasses

import diffusers
import jax.numpy as jnp
import parity
import torch
import transformers

from ldm_jax.models import clip, layers

DOWN, UP = "DownBlock2D", "UpBlock2D"
CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
ATTN_DOWN, ATTN_UP = "AttnDownBlock2D", "AttnUpBlock2D"
TOKENS = 7  # of the context; with a single one the queries and keys do nothing
MICRO = 6 * 256  # sinusoids of SDXL's six numbers


@dataclasses.dataclass(frozen=True)
class Case:
    """A small UNet: what our config changes, and the arguments of diffusers' class."""

    sections: dict
    theirs: Callable
    arguments: dict
    planes: int = 4  # that go in
    context: int = 0  # width
    pooled: int = 0  # width


SD1 = Case(
    dict(
        cond_stage=parity.CLIP,
        unet=dict(
            mult=(1, 1, 2, 2),
            blocks=2,
            depths=(1, 1, 1, 0),
            heads=8,
            head_channels=0,
        ),
    ),
    diffusers.UNet2DConditionModel,
    dict(
        block_out_channels=(64, 64, 128, 128),
        layers_per_block=2,
        down_block_types=(CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, DOWN),
        up_block_types=(UP, CROSS_UP, CROSS_UP, CROSS_UP),
        cross_attention_dim=64,
        attention_head_dim=8,  # the heads, in spite of the name
    ),
    context=64,
)
PAINT = dataclasses.replace(
    SD1,
    sections={
        "cond_stage": {**parity.CLIP, "inpaint": "sd"},
        "unet": dict(heads=4, head_channels=0),
    },
    arguments=dict(
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=(CROSS_DOWN, CROSS_DOWN),
        up_block_types=(CROSS_UP, CROSS_UP),
        cross_attention_dim=64,
        attention_head_dim=4,
        in_channels=9,
    ),
    planes=9,
)
SD2 = Case(
    dict(cond_stage=parity.OPENCLIP, unet=dict(head_channels=64)),
    diffusers.UNet2DConditionModel,
    dict(
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=(CROSS_DOWN, CROSS_DOWN),
        up_block_types=(CROSS_UP, CROSS_UP),
        cross_attention_dim=96,
        attention_head_dim=(1, 2),
        use_linear_projection=True,
    ),
    context=96,
)
XL = Case(
    dict(
        cond_stage=parity.XL,
        unet=dict(mult=(1, 2, 4), depths=(0, 1, 2), mid_depth=2, head_channels=64),
    ),
    diffusers.UNet2DConditionModel,
    dict(
        block_out_channels=(64, 128, 256),
        layers_per_block=1,
        down_block_types=(DOWN, CROSS_DOWN, CROSS_DOWN),
        up_block_types=(CROSS_UP, CROSS_UP, UP),
        cross_attention_dim=160,
        attention_head_dim=(1, 2, 4),
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=80 + MICRO,
    ),
    context=160,
    pooled=80,
)
FACES = Case(
    dict(unet=dict(attention="plain", depths=(0, 1), head_channels=32)),
    diffusers.UNet2DModel,
    dict(
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=(DOWN, ATTN_DOWN),
        up_block_types=(ATTN_UP, UP),
        attention_head_dim=32,
    ),
)
CHURCHES = Case(
    dict(
        unet=dict(
            attention="plain",
            depths=(1, 1),
            head_channels=32,
            scale_shift=True,
            resblock_updown=True,
        )
    ),
    diffusers.UNet2DModel,
    dict(
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=(ATTN_DOWN, ATTN_DOWN),
        up_block_types=(ATTN_UP, ATTN_UP),
        attention_head_dim=32,
        attn_norm_num_groups=32,
        resnet_time_scale_shift="scale_shift",
        downsample_type="resnet",
        upsample_type="resnet",
    ),
)
CASES = {
    "sd1": SD1,
    "sd1-inpainting": PAINT,
    "sd2": SD2,
    "sdxl": XL,
    "faces": FACES,
    "churches": CHURCHES,
}


def torch_unet(case, gain=1.0):
    arguments = dict(in_channels=4, out_channels=4) | case.arguments
    return parity.fill(case.theirs(**arguments), gain)


@dataclasses.dataclass(frozen=True)
class Told:
    """What a UNet is told, as torch's tensors: two pictures, wider than high."""

    z: torch.Tensor
    t: torch.Tensor
    context: torch.Tensor | None
    added: dict | None  # SDXL's pooled text and six numbers


def told(case, height=8, width=16):
    """Something to say to the UNet of a case."""
    context, added = None, None
    if case.context:
        context = parity.normal(2, 2, TOKENS, case.context)
    if case.pooled:
        sizes = [[1024, 768, 0, 64, 512, 896], [300, 400, 20, 0, 1024, 1024]]
        pooled = parity.normal(3, 2, case.pooled)
        added = dict(text_embeds=pooled, time_ids=torch.tensor(sizes).float())
    z = parity.normal(1, 2, case.planes, height, width)
    return Told(z, torch.tensor([21, 981]), context, added)


def torch_says(net, told, **more):
    """What a UNet of diffusers says."""
    if told.context is None:
        return net(told.z, told.t).sample
    more |= dict(encoder_hidden_states=told.context, added_cond_kwargs=told.added)
    return net(told.z, told.t, **more).sample


def arguments(told):
    """The positional arguments of our UNet."""
    context = None if told.context is None else parity.plain(told.context)
    vector = None
    if told.added is not None:
        numbers = parity.plain(told.added["time_ids"])
        micro = layers.timestep_embedding(numbers.reshape(-1), 256).reshape(2, -1)
        pooled = parity.plain(told.added["text_embeds"])
        vector = jnp.concatenate([pooled, micro], axis=-1)
    return parity.nhwc(told.z), parity.plain(told.t), context, vector


def torch_controlnet(case, seed=6):
    """A branch for the UNet of a case."""
    arguments = dict(case.arguments)
    del arguments["up_block_types"]
    return parity.fill(diffusers.ControlNetModel(in_channels=4, **arguments), seed=seed)


def torch_stage(kind, gain=1.0, **arguments):
    """An AutoencoderKL or VQModel with the widths of parity.config_of."""
    shared = dict(
        block_out_channels=(64, 128),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    )
    return parity.fill(kind(**shared | arguments), gain)


def torch_text(encoder, end, gain=1.0):
    """CLIPTextModelWithProjection, or without where the encoder has none."""
    arguments = transformers.CLIPTextConfig(
        vocab_size=encoder.vocab,
        hidden_size=encoder.width,
        intermediate_size=4 * encoder.width,
        num_hidden_layers=encoder.depth,
        num_attention_heads=encoder.heads,
        hidden_act=encoder.activation,
        projection_dim=encoder.projection or 512,
        eos_token_id=end,
    )
    kind = transformers.CLIPTextModel
    if encoder.projection:
        kind = transformers.CLIPTextModelWithProjection
    return parity.fill(kind(arguments), gain)


def as_released(model):
    """Its state dict; transformers 5.6 dropped a level that all files have."""
    state = model.state_dict()
    if any(name.startswith("text_model.") for name in state):
        return state
    return {f"text_model.{name}": leaf for name, leaf in state.items()}


def torch_bert(**arguments):
    """diffusers' transcription of LDM's text encoder, without weights of ours."""
    ldm = diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion
    return ldm.LDMBertModel(ldm.LDMBertConfig(**arguments))


# diffusers' names of LDM's text encoder and the original ones.
BERT_LAYER = {
    "self_attn_layer_norm": "{attn}.0",
    "self_attn.q_proj": "{attn}.1.to_q",
    "self_attn.k_proj": "{attn}.1.to_k",
    "self_attn.v_proj": "{attn}.1.to_v",
    "self_attn.out_proj": "{attn}.1.to_out",
    "final_layer_norm": "{mlp}.0",
    "fc1": "{mlp}.1.net.0.0",
    "fc2": "{mlp}.1.net.2",
}
BERT_ENDS = {
    "model.embed_tokens": "token_emb",
    "model.embed_positions": "pos_emb.emb",
    "model.layer_norm": "norm",
    "to_logits": "to_logits",
}


def original_bert_name(name):
    """What LDM's files call a parameter of an LDMBertModel."""
    module, _, kind = name.rpartition(".")
    new = BERT_ENDS.get(module)
    if new is None:
        _, _, number, part = module.split(".", 3)
        attn, mlp = (f"attn_layers.layers.{2 * int(number) + i}" for i in (0, 1))
        new = BERT_LAYER[part].format(attn=attn, mlp=mlp)
    return f"cond_stage_model.transformer.{new}.{kind}"


def torch_encoders(case):
    """{folder of diffusers: text encoder} of a case."""
    if not case.context:
        return {}
    names = case.sections["cond_stage"]["encoders"]
    folders = ("text_encoder", "text_encoder_2")[: len(names)]
    shapes = [parity.ENCODERS[name] for name in names]
    return {
        folder: torch_text(shape, clip.END)
        for folder, shape in zip(folders, shapes, strict=True)
    }


def torch_pipeline(case):
    """{folder of diffusers: module}: a whole model."""
    stage = torch_stage(diffusers.AutoencoderKL, layers_per_block=1)
    return {"unet": torch_unet(case), "vae": stage, **torch_encoders(case)}


def states(modules):
    """{folder: state dict} of such modules, as released folders have them."""
    return {
        folder: as_released(module)
        if folder.startswith("text")
        else module.state_dict()
        for folder, module in modules.items()
    }
