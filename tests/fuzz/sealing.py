"""Hashes made to fit what was spoilt, as whoever spoils a folder would make them."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

from unipool_dist.data.corpus_manifest import combined_hash


def seal_checkpoint(folder: Path, manifest: Any = None) -> None:
    """Write ``manifest.json`` of a checkpoint: of the regular files that are there, or this content, with its hash.

    If something else lies in its place, that stays.
    """
    if not _is_regular(folder / "manifest.json"):
        return
    if manifest is None:
        files = {path.name: _xxh3(path.read_bytes()) for path in _regular(folder) if path.name != "manifest.json"}
        manifest = {"step": int(folder.name.removeprefix("step-")), "files": files}
    if isinstance(manifest, dict):
        content = {key: value for key, value in manifest.items() if key != "xxh3_128"}
        manifest = {**content, "xxh3_128": xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())}
    write_json(folder / "manifest.json", manifest)


def seal_corpus(folder: Path, change: Callable[[Any], Any] = lambda manifest: manifest) -> None:
    """Write the sizes and hashes of a corpus's files into its ``manifest.json``, then ``change`` that."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {
        path.name: {"num_bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in _regular(folder)
        if path.name in manifest["files"]
    }
    names = {"sentencepiece": ("tokenizer.model",), "gpt2": ("encoder.json", "vocab.bpe")}[
        manifest["tokenizer"]["kind"]
    ]
    hashes = {name: _sha256(folder / name) for name in names if _is_regular(folder / name)}
    manifest["tokenizer"]["sha256"] = combined_hash(hashes)
    write_json(folder / "manifest.json", change(manifest))


def write_json(path: Path, tree: Any) -> None:
    """Write even what JSON has no word for, lone surrogates and NaN."""
    path.write_text(json.dumps(tree), encoding="utf-8", errors="surrogatepass")


def _regular(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _is_regular(path))


def _is_regular(path: Path) -> bool:
    """Whether this is a file, no link, of a size that can be hashed: one of those that are odd is a hole of 64 GiB."""
    status = os.lstat(path) if os.path.lexists(path) else None
    return status is not None and stat.S_ISREG(status.st_mode) and status.st_size < 1 << 30


def _xxh3(data: bytes) -> dict[str, Any]:
    return {"num_bytes": len(data), "xxh3_128": xxhash.xxh3_128_hexdigest(data)}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
