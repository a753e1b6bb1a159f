"""Pictures in and out: value ranges, sheets, PNG files."""

import io
import os
import pathlib
import uuid

import jax.numpy as jnp
import numpy as np
from PIL import Image, PngImagePlugin


def to_float(image):
    """uint8 [B, H, W, 3] -> x in [-1, 1], float32."""
    return image.astype(jnp.float32) / 127.5 - 1


def to_uint8(x):
    """x in [-1, 1], clipped -> uint8."""
    return jnp.round((jnp.clip(x, -1, 1) + 1) * 127.5).astype(jnp.uint8)


def grid(images, columns=None, pad=2):
    """uint8 [N, H, W, 3] -> one sheet [H', W', 3] on white."""
    images = np.asarray(images)
    count, height, width, _ = images.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full(
        (rows * (height + pad) + pad, columns * (width + pad) + pad, 3), 255, np.uint8
    )
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        y, x = pad + row * (height + pad), pad + column * (width + pad)
        sheet[y : y + height, x : x + width] = image
    return sheet


def png(image, text=None):
    """uint8 [H, W, 3] -> the bytes of a PNG; `text` {key: str} goes into it."""
    info = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    out = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(out, format="png", pnginfo=info)
    return out.getvalue()


def save_png(path, image, text=None):
    """Writes a `png` through a temporary name: whole, or not at all."""
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(png(image, text))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
