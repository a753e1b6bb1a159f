"""The names of CompVis' files: LDM, Stable Diffusion 1 and 2, SDXL, ControlNet.

Each function gives {our module path: layouts.Module}, without the prefix that says
where in a file the network lies.
"""

from ldm_jax.weights import layouts, walks

UNET_RES = {
    "norm_in": "in_layers.0",
    "conv_in": "in_layers.2",
    "temb": "emb_layers.1",
    "norm_out": "out_layers.0",
    "conv_out": "out_layers.3",
    "skip": "skip_connection",
}
STAGE_RES = {
    "norm_in": "norm1",
    "conv_in": "conv1",
    "norm_out": "norm2",
    "conv_out": "conv2",
    "skip": "nin_shortcut",
}
TRANSFORMER_BLOCK = {
    "norm_self": "norm1",
    "self/q": "attn1.to_q",
    "self/k": "attn1.to_k",
    "self/v": "attn1.to_v",
    "self/out": "attn1.to_out.0",
    "norm_cross": "norm2",
    "cross/q": "attn2.to_q",
    "cross/k": "attn2.to_k",
    "cross/v": "attn2.to_v",
    "cross/out": "attn2.to_out.0",
    "norm_mlp": "norm3",
    "mlp/proj_in": "ff.net.0.proj",
    "mlp/proj_out": "ff.net.2",
}
EMBEDDINGS = {
    "temb_0": "time_embed.0",
    "temb_1": "time_embed.2",
    "vector_0": "label_emb.0.0",
    "vector_1": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
}


def transformer(prefix, depth, linear):
    """A SpatialTransformer; linear: its projections are matrices, as from SD2 on."""
    kernel = "dense" if linear else "conv2"
    ends = {"proj_in": "proj_in", "proj_out": "proj_out"}
    modules = layouts.named(prefix, {"norm": "norm"}) | layouts.named(
        prefix, ends, kernel=kernel
    )
    for i in range(depth):
        inner = layouts.named(f"{prefix}transformer_blocks.{i}.", TRANSFORMER_BLOCK)
        modules |= layouts.below(f"block_{i}", inner)
    return modules


def _attention(arch, block, prefix, linear):
    if arch.attention == "transformer":
        return transformer(prefix, walks.depth(arch, block), linear)
    inner = {"qkv": "qkv", "proj_out": "proj_out"}
    return layouts.named(prefix, {"norm": "norm"}) | layouts.named(
        prefix, inner, kernel="conv1"
    )


def _unet_block(arch, block, prefix, linear):
    """{path below the block's: Module}; "" is the block itself."""
    if block.kind == "attn":
        return _attention(arch, block, prefix, linear)
    if block.kind == "res" or arch.resblock_updown:
        return layouts.named(prefix, UNET_RES)
    return {"": layouts.Module((prefix + ("op" if block.side == "down" else "conv"),))}


def trunk(arch, linear):
    """Stem, down path and middle."""
    modules = layouts.named("", EMBEDDINGS)
    number, middle = 0, 0
    for block in walks.trunk(arch):
        if block.side == "mid":
            prefix, middle = f"middle_block.{middle}.", middle + 1
        else:
            number += block.kind != "attn"
            prefix = f"input_blocks.{number}.{int(block.kind == 'attn')}."
        modules |= layouts.below(block.ours, _unet_block(arch, block, prefix, linear))
    return modules


def unet(arch, linear):
    """The UNet of every model; linear as in `transformer`."""
    modules = layouts.below("trunk", trunk(arch, linear))
    number, inner = -1, 0
    for block in walks.up(arch):
        starts = block.kind == "res"
        number, inner = number + starts, 0 if starts else inner + 1
        prefix = f"output_blocks.{number}.{inner}."
        modules |= layouts.below(block.ours, _unet_block(arch, block, prefix, linear))
    return modules | layouts.named("", {"norm_out": "out.0", "conv_out": "out.2"})


def controlnet(arch, linear, levels=4):
    """A control branch: its trunk, the hint encoder and the zero convolutions.

    levels: of the hint encoder; the original's has 4.
    """
    modules = layouts.below("trunk", trunk(arch, linear))
    hints = [f"hint_{i}" for i in range(2 * levels - 1)] + ["hint_out"]
    places = {hint: f"input_hint_block.{2 * i}" for i, hint in enumerate(hints)}
    skips = sum(block.kind != "attn" for block in walks.trunk(arch)) - 2 + 1
    places |= {f"zero_{i}": f"zero_convs.{i}.0" for i in range(skips)}
    return modules | layouts.named("", {**places, "zero_mid": "middle_block_out.0"})


def _stage_block(block, prefix):
    if block.kind == "res":
        return layouts.named(prefix, STAGE_RES)
    if block.kind == "resample":
        return {"": layouts.Module((f"{prefix}conv",))}
    qkv = layouts.Module(tuple(prefix + name for name in "qkv"), kernel="conv2")
    out = layouts.named(prefix, {"proj_out": "proj_out"}, kernel="conv2")
    return layouts.named(prefix, {"norm": "norm"}) | {"qkv": qkv} | out


def _stage_prefix(block):
    if block.side == "mid":
        names = {"res": f"block_{block.i + 1}", "attn": "attn_1"}
        return f"mid.{names[block.kind]}."
    resample = "downsample" if block.side == "down" else "upsample"
    names = {"res": f"block.{block.i}", "attn": f"attn.{block.i}", "resample": resample}
    return f"{block.side}.{block.level}.{names[block.kind]}."


def first_stage(arch):
    """Both kinds of autoencoder."""
    ends = {name: name for name in ("conv_in", "norm_out", "conv_out")}
    modules = {}
    for side, walk in (("encoder", walks.encoder), ("decoder", walks.decoder)):
        modules |= layouts.below(side, layouts.named(f"{side}.", ends))
        for block in walk(arch):
            inner = _stage_block(block, f"{side}.{_stage_prefix(block)}")
            modules |= layouts.below(f"{side}/{block.ours}", inner)
    points = {name: name for name in ("quant_conv", "post_quant_conv")}
    modules |= layouts.named("", points, kernel="conv2")
    return modules | layouts.named("", {"codebook/codes": "quantize.embedding"})


def bert(depth):
    """LDM's text encoder (x-transformers)."""
    modules = layouts.named("", {"tokens": "token_emb", "positions": "pos_emb.emb"})
    for i in range(depth):
        attn, mlp = (f"attn_layers.layers.{2 * i + half}" for half in range(2))
        inner = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out"}
        modules |= layouts.below(f"attn_{i}", layouts.named(f"{attn}.1.", inner))
        inner = {"proj_in": "net.0.0", "proj_out": "net.2"}
        modules |= layouts.below(f"mlp_{i}", layouts.named(f"{mlp}.1.", inner))
        norms = {f"norm_attn_{i}": f"{attn}.0", f"norm_mlp_{i}": f"{mlp}.0"}
        modules |= layouts.named("", norms)
    return modules | layouts.named("", {"norm_out": "norm"})


def openclip(depth):
    """The text half of OpenCLIP's models."""
    bare = dict.fromkeys(("kernel", "embedding"), "")
    modules = layouts.named("", {"tokens": "token_embedding", "norm_out": "ln_final"})
    modules["positions"] = layouts.Module(("positional_embedding",), leaves=bare)
    modules["projection"] = layouts.Module(("text_projection",), "same", leaves=bare)
    table = {
        "norm_attn": "ln_1",
        "attn_out": "attn.out_proj",
        "norm_mlp": "ln_2",
        "mlp_in": "mlp.c_fc",
        "mlp_out": "mlp.c_proj",
    }
    packed = {"kernel": "in_proj_weight", "bias": "in_proj_bias"}
    for i in range(depth):
        prefix = f"transformer.resblocks.{i}."
        qkv = {"qkv": layouts.Module((f"{prefix}attn.",), leaves=packed)}
        modules |= layouts.below(f"block_{i}", layouts.named(prefix, table) | qkv)
    return modules
