"""The layers again, in float64 numpy and slow: what the tests compare with."""

import numpy as np
from scipy import special


def double(tree):
    """A parameter tree as float64 numpy."""
    if isinstance(tree, dict):
        return {name: double(leaf) for name, leaf in tree.items()}
    return np.asarray(tree, np.float64)


def silu(x):
    return x * special.expit(x)


def gelu(x):
    return x * special.ndtr(x)


def dense(params, x):
    return x @ params["kernel"] + params.get("bias", 0.0)


def conv(params, x, stride=1, padding=((1, 1), (1, 1))):
    """[B, H, W, C] with a kernel [k, k, C, D]."""
    kernel = params["kernel"]
    size = kernel.shape[0]
    x = np.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = ((n - size) // stride + 1 for n in x.shape[1:3])
    out = np.zeros((len(x), height, width, kernel.shape[-1]))
    for i in range(size):
        for j in range(size):
            rows = slice(i, i + stride * (height - 1) + 1, stride)
            columns = slice(j, j + stride * (width - 1) + 1, stride)
            out += x[:, rows, columns] @ kernel[i, j]
    return out + params.get("bias", 0.0)


def group_norm(params, x, groups, epsilon):
    parts = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    mean = parts.mean((1, 3), keepdims=True)
    variance = parts.var((1, 3), keepdims=True)
    parts = (parts - mean) / np.sqrt(variance + epsilon)
    return parts.reshape(x.shape) * params["scale"] + params["bias"]


def layer_norm(params, x, epsilon=1e-5):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * params["scale"] + params["bias"]


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def attend(q, k, v):
    """[B, L, H, D], [B, M, H, D] twice -> [B, L, H, D]."""
    scores = np.einsum("blhd,bmhd->bhlm", q, k) / np.sqrt(q.shape[-1])
    return np.einsum("bhlm,bmhd->blhd", softmax(scores), v)


def attention(params, x, context, heads):
    """Multi-head attention with the parameters q, k, v and out."""

    def split(name, tokens):
        tokens = dense(params[name], tokens)
        return tokens.reshape(*tokens.shape[:2], heads, -1)

    out = attend(split("q", x), split("k", context), split("v", context))
    return dense(params["out"], out.reshape(*out.shape[:2], -1))


def mean_down(x):
    batch, height, width, features = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, features).mean((2, 4))


def nearest_up(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)
