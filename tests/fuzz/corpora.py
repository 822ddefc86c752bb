"""Prepared corpora whose manifest fits: token stores, indices and tokenizers that lie, caches that are programs."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz import odd_files
from tests.fuzz.bombs import JSON_BOMBS
from tests.fuzz.hostile import NUMBERS, damaged, text, value
from tests.fuzz.inputs import Input, InputClass, Material
from tests.fuzz.pickles import attack, stream
from tests.fuzz.place import Place
from tests.fuzz.sealing import seal_corpus
from unipool_dist.data.index_files import RECORD, seal

_HEADER = 34
"""Bytes before the lengths in an index: magic, version, type, number of sequences, number of documents."""
TRAIN = [
    "train",
    "valid.yaml",
    "--overwrite",
    "run.dir=run",
    "data.path=corpus",
    "parallel.timeout_s=20",
]


def make(draw: random.Random, number: int, place: Place, material: Material) -> Input:
    corpus = place.folder / "corpus"
    shutil.copytree(material.corpus, corpus)
    shutil.copy(material.run / "config.yaml", place.folder / "valid.yaml")
    if number == 0:
        return Input("valid", [["data", "show", "corpus", "--verify", "hash"], TRAIN], valid=True)
    ways = (_index, _index, _store, _tokenizer, _tokenizer, _vocabulary, _numbers, _domain, _odd, _cache)
    way = ways[number % len(ways)]
    change: Callable[[Any], Any] = lambda manifest: manifest  # noqa: E731
    what = way(draw, place, corpus)
    if not isinstance(what, str):
        what, change = what
    seal_corpus(corpus, change)
    show = ["data", "show", "corpus", "--verify", draw.choice(("size", "hash"))]
    trains = way in (_index, _store, _cache) or draw.random() < 0.3
    return Input(what, [show, TRAIN] if trains else [show])


def _index(draw: random.Random, place: Place, corpus: Path) -> str:
    """Lengths, pointers or documents in an index are not those of the tokens."""
    path = draw.choice(sorted(corpus.glob("*.idx")))
    data = bytearray(path.read_bytes())
    sequences, documents = struct.unpack_from("<QQ", data, 18)
    number = draw.choice([n for n in NUMBERS if isinstance(n, int) and -(2**63) <= n < 2**63])
    small = max(min(number, 2**31 - 1), -(2**31))
    pointers, indices = _HEADER + 4 * sequences, _HEADER + 12 * sequences
    changes: dict[str, Callable[[], object]] = {
        "nothing": data.clear,
        "random": lambda: data.__setitem__(slice(None), draw.randbytes(draw.randint(1, 3_000))),
        "damaged": lambda: data.__setitem__(slice(None), damaged(draw, bytes(data))),
        "version": lambda: struct.pack_into("<q", data, 9, number),
        "type": lambda: data.__setitem__(17, draw.randrange(256)),
        "number of sequences": lambda: struct.pack_into("<q", data, 18, number),
        "number of documents": lambda: struct.pack_into("<q", data, 26, number),
        "lengths": lambda: struct.pack_into(f"<{sequences}i", data, _HEADER, *[small] * sequences),
        "a length": lambda: struct.pack_into("<i", data, _HEADER + 4 * draw.randrange(sequences), small),
        "random lengths": lambda: struct.pack_into(
            f"<{sequences}i", data, _HEADER, *(draw.randrange(-(2**31), 2**31) for _ in range(sequences))
        ),
        "pointers": lambda: struct.pack_into(f"<{sequences}q", data, pointers, *[number] * sequences),
        "a pointer": lambda: struct.pack_into("<q", data, pointers + 8 * draw.randrange(sequences), number),
        "documents": lambda: struct.pack_into(f"<{documents}q", data, indices, *[number] * documents),
        "documents backwards": lambda: struct.pack_into(f"<{documents}q", data, indices, *range(documents, 0, -1)),
    }
    change = draw.choice(list(changes))
    changes[change]()
    path.write_bytes(data)
    return f"{path.name}: {change} {number}"


def _store(draw: random.Random, place: Place, corpus: Path) -> str:
    """Tokens are outside of the vocabulary, or fewer than the index says."""
    path = draw.choice(sorted(corpus.glob("*.bin")))
    data = path.read_bytes()
    new = draw.choice(
        (b"", data[: len(data) // 2], data[:-1], b"\xff" * len(data), draw.randbytes(len(data)), damaged(draw, data))
    )
    path.write_bytes(new)
    return f"{path.name}: {len(new)} bytes for {len(data)}"


def _tokenizer(draw: random.Random, place: Place, corpus: Path) -> str:
    path = corpus / "tokenizer.model"
    kinds: tuple[bytes, ...] = (
        *(damaged(draw, path.read_bytes()) for _ in range(8)),
        b"",
        stream(draw, place),
        pickle.dumps(attack(draw, place)),
        b"\x0a\xff\xff\xff\xff\x0f" + b"x" * 100,
        draw.randbytes(5_000),
    )
    path.write_bytes(draw.choice(kinds))
    return "the tokenizer is another file"


def _vocabulary(draw: random.Random, place: Place, corpus: Path) -> tuple[str, Callable[[Any], Any]]:
    """A vocabulary and merges of GPT-2's kind in place of the tokenizer."""
    (corpus / "tokenizer.model").unlink()
    base: dict[str, Any] = {"<|endoftext|>": 0, **{chr(33 + i): i + 1 for i in range(90)}}
    odd = draw.choice(list(base))
    what, bomb = draw.choice(JSON_BOMBS)
    spoilt: Any = draw.choice(
        (
            {**base, odd: draw.choice(NUMBERS)},
            {**base, odd: value(draw, place)},
            {},
            [],
            {**base, text(draw, place): 95},
        )
    )
    vocabulary = bomb(draw) if draw.random() < 0.4 else json.dumps(spoilt)
    merges = draw.choice(("#version: 0.2\n", "", "a\nb c d\n\0\n" * 50, "! !\n" * 1000, text(draw, place)))
    (corpus / "encoder.json").write_text(vocabulary, encoding="utf-8", errors="surrogatepass")
    (corpus / "vocab.bpe").write_text(merges, encoding="utf-8", errors="surrogatepass")

    manifest = json.loads((corpus / "manifest.json").read_text())
    manifest["files"] = {name: record for name, record in manifest["files"].items() if name != "tokenizer.model"}
    manifest["files"] |= {"encoder.json": {}, "vocab.bpe": {}}
    manifest["tokenizer"] |= {
        "kind": "gpt2",
        "vocab_size": draw.choice((91, 300, 0, 10**9)),
        "eod": draw.choice((0, -1, 10**9)),
    }
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    return f"GPT-2's files: {what}", lambda sealed: sealed


def _numbers(draw: random.Random, place: Place, corpus: Path) -> tuple[str, Callable[[Any], Any]]:
    """A number in the manifest is not that of the files."""
    number = draw.choice(NUMBERS)

    def change(manifest: Any) -> Any:
        record = draw.choice([manifest["tokenizer"], *manifest["domains"].values()])
        record[draw.choice([key for key, old in record.items() if isinstance(old, int | float)])] = number
        return manifest

    return f"a number in the manifest: {number!r:.40}", change


def _domain(draw: random.Random, place: Place, corpus: Path) -> tuple[str, Callable[[Any], Any]]:
    """A domain has a hostile name, with files of that name where they can be."""
    name = draw.choice(
        (text(draw, place), text(draw, place), f"{place.outside}/corpus/prose", "../outside/corpus/prose")
    )
    if "/" not in name and "\0" not in name and len(name.encode(errors="surrogateescape")) < 200:
        for path in sorted(corpus.glob("prose.*")):
            path.rename(corpus / (name + path.name.removeprefix("prose")))

    def change(manifest: Any) -> Any:
        for key in ("domains", "files"):
            manifest[key] = {
                name + old.removeprefix("prose") if old.startswith("prose") else old: record
                for old, record in manifest[key].items()
            }
        return manifest

    manifest = change(json.loads((corpus / "manifest.json").read_text()))
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    return f"a domain named {name[:60]!r}", lambda sealed: sealed


def _odd(draw: random.Random, place: Place, corpus: Path) -> str:
    path = draw.choice(sorted(path for path in corpus.iterdir() if path.name != "manifest.json"))
    return f"{path.name} is {odd_files.replace(draw, path, place)}"


def _cache(draw: random.Random, place: Place, corpus: Path) -> str:
    """An index that training has cached is a program, or an array of something else."""
    path = draw.choice(sorted((corpus / "cache").rglob("*.npy")))
    kinds: dict[str, Callable[[], object]] = {
        "a hostile pickle": lambda: path.write_bytes(stream(draw, place)),
        "an attack": lambda: path.write_bytes(pickle.dumps(attack(draw, place))),
        "objects": lambda: np.save(path, np.array([attack(draw, place)], dtype=object), allow_pickle=True),
        "damaged": lambda: path.write_bytes(damaged(draw, path.read_bytes())),
        "other numbers": lambda: np.save(path, np.full_like(np.load(path), draw.choice((-1, 2**31 - 1, 10**6)))),
        "odd": lambda: odd_files.replace(draw, path, place),
    }
    kind = draw.choice(list(kinds))
    kinds[kind]()
    if draw.random() < 0.7 and path.is_file() and not path.is_symlink():
        (path.parent / RECORD).unlink()
        seal(path.parent, path.parent.name)
    return f"{path.name} is {kind}"


CORPORA = InputClass("corpora", 300, make)
