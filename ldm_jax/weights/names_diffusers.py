"""The names of diffusers' and transformers' folders, torch and Flax.

Each function gives {our module path: layouts.Module} of one folder's file.
"""

from ldm_jax.weights import layouts, names_compvis, walks

RES = {
    "norm_in": "norm1",
    "conv_in": "conv1",
    "temb": "time_emb_proj",
    "norm_out": "norm2",
    "conv_out": "conv2",
    "skip": "conv_shortcut",
}
EMBEDDINGS = {
    "temb_0": "time_embedding.linear_1",
    "temb_1": "time_embedding.linear_2",
    "vector_0": "add_embedding.linear_1",
    "vector_1": "add_embedding.linear_2",
    "conv_in": "conv_in",
}


def _prefix(block, levels):
    """Where a block lies; diffusers numbers the up path in the order it runs."""
    names = {
        "res": "resnets",
        "attn": "attentions",
        "resample": f"{block.side}samplers",
    }
    inner = f"{names[block.kind]}.{block.i}."
    if block.side == "mid":
        return f"mid_block.{inner}"
    place = block.level if block.side == "down" else levels - 1 - block.level
    return f"{block.side}_blocks.{place}.{inner}"


def _attention(prefix, heads):
    """An AttentionBlock: three matrices."""
    qkv = layouts.Module(tuple(f"{prefix}to_{x}" for x in "qkv"), heads=heads)
    ends = {"norm": "group_norm", "proj_out": "to_out.0"}
    return layouts.named(prefix, ends) | {"qkv": qkv}


def _unet_block(arch, block, linear):
    prefix = _prefix(block, len(arch.mult))
    if block.kind == "res" or (block.kind == "resample" and arch.resblock_updown):
        return layouts.named(prefix, RES)
    if block.kind == "resample":
        return {"": layouts.Module((f"{prefix}conv",))}
    if arch.attention == "plain":
        return _attention(prefix, walks.heads(arch, block))
    depth = walks.depth(arch, block)
    return names_compvis.transformer(prefix, depth, linear)


def trunk(arch, linear):
    """Stem, down path and middle of a UNet2DConditionModel or UNet2DModel."""
    modules = layouts.named("", EMBEDDINGS)
    for block in walks.trunk(arch):
        modules |= layouts.below(block.ours, _unet_block(arch, block, linear))
    return modules


def unet(arch, linear):
    """UNet2DConditionModel, and with plain attention UNet2DModel."""
    modules = layouts.below("trunk", trunk(arch, linear))
    for block in walks.up(arch):
        modules |= layouts.below(block.ours, _unet_block(arch, block, linear))
    return modules | layouts.named(
        "", {"norm_out": "conv_norm_out", "conv_out": "conv_out"}
    )


def controlnet(arch, linear, levels=4):
    """ControlNetModel; levels: of its conditioning_embedding_out_channels."""
    modules = layouts.below("trunk", trunk(arch, linear))
    where = "controlnet_cond_embedding"
    places = {f"hint_{i + 1}": f"{where}.blocks.{i}" for i in range(2 * levels - 2)}
    places |= {"hint_0": f"{where}.conv_in", "hint_out": f"{where}.conv_out"}
    skips = sum(block.kind != "attn" for block in walks.trunk(arch)) - 2 + 1
    places |= {f"zero_{i}": f"controlnet_down_blocks.{i}" for i in range(skips)}
    return modules | layouts.named("", {**places, "zero_mid": "controlnet_mid_block"})


def first_stage(arch):
    """AutoencoderKL and VQModel."""
    ends = {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}
    modules = {}
    for side, walk in (("encoder", walks.encoder), ("decoder", walks.decoder)):
        modules |= layouts.below(side, layouts.named(f"{side}.", ends))
        for block in walk(arch):
            prefix = f"{side}.{_prefix(block, len(arch.mult))}"
            inner = {
                "res": layouts.named(prefix, RES),
                "attn": _attention(prefix, 1),
                "resample": {"": layouts.Module((f"{prefix}conv",))},
            }[block.kind]
            modules |= layouts.below(f"{side}/{block.ours}", inner)
    points = {name: name for name in ("quant_conv", "post_quant_conv")}
    modules |= layouts.named("", points, kernel="conv2")
    return modules | layouts.named("", {"codebook/codes": "quantize.embedding"})


def clip(depth):
    """transformers' CLIPTextModel and CLIPTextModelWithProjection."""
    where = "text_model."
    modules = layouts.named(
        where,
        {
            "tokens": "embeddings.token_embedding",
            "positions": "embeddings.position_embedding",
            "norm_out": "final_layer_norm",
        },
    )
    modules |= layouts.named("", {"projection": "text_projection"})
    table = {
        "norm_attn": "layer_norm1",
        "attn_out": "self_attn.out_proj",
        "norm_mlp": "layer_norm2",
        "mlp_in": "mlp.fc1",
        "mlp_out": "mlp.fc2",
    }
    for i in range(depth):
        prefix = f"{where}encoder.layers.{i}."
        qkv = layouts.Module(tuple(f"{prefix}self_attn.{x}_proj" for x in "qkv"))
        modules |= layouts.below(
            f"block_{i}", layouts.named(prefix, table) | {"qkv": qkv}
        )
    return modules
