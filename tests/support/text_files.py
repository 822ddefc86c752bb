"""The same documents as files of every kind, compressed or not, for tests of sources."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def _jsonl(path: Path, texts: Sequence[str]) -> None:
    lines = [json.dumps({"id": i, "text": text}, ensure_ascii=i % 2 == 0) for i, text in enumerate(texts)]
    path.write_text("\n".join(lines), encoding="utf-8", newline="")  # the last line need not have an end


def _json(path: Path, texts: Sequence[str]) -> None:
    path.write_text(json.dumps([{"id": i, "text": text} for i, text in enumerate(texts)], indent=1))


def _text(path: Path, texts: Sequence[str]) -> None:
    path.write_bytes(texts[0].encode())


def _table(texts: Sequence[str]) -> pa.Table:
    return pa.table({"id": range(len(texts)), "text": texts, "score": [0.5] * len(texts)})


def _parquet(path: Path, texts: Sequence[str]) -> None:
    pq.write_table(_table(texts), path, row_group_size=7)


def _arrow_file(path: Path, texts: Sequence[str]) -> None:
    with pa.ipc.new_file(path, _table(texts).schema) as writer:
        writer.write_table(_table(texts), max_chunksize=9)


def _arrow_stream(path: Path, texts: Sequence[str]) -> None:
    with pa.ipc.new_stream(path, _table(texts).schema) as writer:
        writer.write_table(_table(texts), max_chunksize=9)


WRITERS: dict[str, Callable[[Path, Sequence[str]], None]] = {
    "jsonl": _jsonl,
    "json": _json,
    "txt": _text,
    "md": _text,
    "parquet": _parquet,
    "arrow": _arrow_file,
    "arrow stream": _arrow_stream,
}
"""How files of each kind are written. Text files have one document each."""
CODECS = ("", ".gz", ".zst")


def write_texts(folder: Path, kind: str, codec: str, texts: Sequence[str], num_files: int) -> Path:
    """Write ``texts`` as files of ``kind`` into ``folder``; return that of the only file, or else the folder."""
    folder.mkdir(parents=True)
    size = -(-len(texts) // num_files)
    for i in range(num_files):
        path = folder / f"{i:03d}.{kind.split()[0]}"
        WRITERS[kind](path, texts[i * size : (i + 1) * size])
        path = compressed(path, codec)
    return path if num_files == 1 else folder


def compressed(path: Path, codec: str) -> Path:
    """Compress the file in its place, and give it the suffix ``codec``; nothing if that is empty."""
    if not codec:
        return path
    data = path.read_bytes()
    path.unlink()
    path = path.with_name(path.name + codec)
    path.write_bytes(gzip.compress(data) if codec == ".gz" else pa.Codec("zstd").compress(data, asbytes=True))
    return path
