"""A corpus of 10^12 tokens that takes hardly any disk: its files are sparse."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np

from unipool_dist.data import Corpus

TRAIN_TOKENS, VALIDATION_TOKENS, DOCUMENTS = 10**12, 4 * 10**10, 10**9


def enlarge(prepared: Path, out: Path) -> Corpus:
    """Copy a prepared corpus, its first domain grown to ``TRAIN_TOKENS``; almost all of these are token 0.

    The hashes in the manifest are kept: nothing that opens a corpus by its sizes reads them.
    """
    shutil.copytree(prepared, out, ignore=shutil.ignore_patterns("cache"))
    manifest = json.loads((out / "manifest.json").read_text())
    name, domain = next(iter(manifest["domains"].items()))
    for split, tokens in (("train", TRAIN_TOKENS), ("validation", VALIDATION_TOKENS)):
        documents = DOCUMENTS * tokens // TRAIN_TOKENS
        domain |= {f"{split}_tokens": tokens, f"{split}_documents": documents, f"{split}_bytes": 4 * tokens}
        for end, num_bytes in (("bin", 2 * tokens), ("idx", 42 + 20 * documents)):
            path = out / f"{name}.{split}.{end}"
            os.truncate(path, num_bytes)
            manifest["files"][path.name]["num_bytes"] = num_bytes
    (out / "manifest.json").write_text(json.dumps(manifest))
    return Corpus.open(out)


def mark(corpus: Corpus, domain: str, first: int, tokens: list[int]) -> None:
    """Write ``tokens`` at position ``first`` of the domain's training tokens."""
    with (corpus.path / f"{domain}.train.bin").open("r+b") as file:
        file.seek(2 * first)
        file.write(np.array(tokens, dtype=np.uint16).tobytes())
