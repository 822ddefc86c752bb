"""Copy the tokenizer that belongs to a checkpoint from the corpus that the run was trained on."""

from __future__ import annotations

import shutil
from pathlib import Path

from unipool_dist.data.corpus_manifest import combined_hash, file_sha256, read_manifest
from unipool_dist.data.tokenizer import TOKENIZER_FILES
from unipool_dist.errors import DataError


def copy_tokenizer(corpus: Path, tokenizer_hash: str | None, out: Path) -> tuple[tuple[str, ...], str | None]:
    """Copy the tokenizer's files from ``corpus`` to ``out`` if they have the hash ``tokenizer_hash``.

    Returns:
        Their names and ``None``; or no names and why the files were not found.

    Raises:
        OSError: ``out`` cannot be written.
    """
    if tokenizer_hash is None:
        return (), "the checkpoint does not know its tokenizer"
    try:
        tokenizer = read_manifest(corpus).tokenizer
    except DataError:
        return (), f"data.path={corpus} is not a corpus here"
    if tokenizer.sha256 != tokenizer_hash:
        return (), f"the corpus at data.path={corpus} has another tokenizer now"
    names = TOKENIZER_FILES[tokenizer.kind]
    try:
        found = combined_hash({name: file_sha256(corpus / name) for name in names})
    except (OSError, ValueError) as error:
        return (), f"the corpus at data.path={corpus} lacks a file: {error}"
    if found != tokenizer_hash:
        return (), f"the tokenizer's files in data.path={corpus} are damaged"
    for name in names:
        shutil.copyfile(corpus / name, out / name)
    return names, None
