"""Files, folders, names and options for ``data prepare``."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import pickle
import random
import string
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz import odd_files
from tests.fuzz.bombs import JSON_BOMBS
from tests.fuzz.hostile import NUMBERS, damaged, text, value
from tests.fuzz.inputs import Input, InputClass, Material
from tests.fuzz.pickles import attack
from tests.fuzz.place import Place

Made = tuple[str, list[str]]
"""What is wrong, and the options that give it to the command."""


def make(draw: random.Random, number: int, place: Place, material: Material) -> Input:
    if number == 0:
        rows = "\n".join(json.dumps({"text": row}) for row in _texts(draw)).encode()
        return Input(
            "valid", [["data", "prepare", "out", "--vocab-size=300", *_file(place, "s.jsonl", rows)]], valid=True
        )
    ways = (
        _rows,
        _saved,
        _packed,
        _bytes,
        _parquet,
        _arrow,
        _plain,
        _name,
        _odd,
        _option,
        _out,
        _rows,
        _packed,
        _parquet,
    )
    way = ways[number % len(ways)]
    what, options = way(draw, place)
    sizes = [] if "--vocab-size" in options else ["--vocab-size=300"]
    command = ["data", "prepare", "out", *sizes, *(option.replace("\0", "") for option in options)]
    return Input(what, [command], may_read=way is _option)  # an option may name any file of the user's


def _texts(draw: random.Random) -> list[str]:
    words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 7))) for _ in range(120)]
    return [" ".join(draw.choices(words, k=30)) for _ in range(120)]


def _rows(draw: random.Random, place: Place) -> Made:
    """JSON lines of which some are hostile."""
    lines = [json.dumps({"text": row, "n": i}) for i, row in enumerate(_texts(draw))]
    what, bomb = draw.choice(JSON_BOMBS)
    alphabet = "".join(
        chr(draw.choice((draw.randrange(32, 0xD800), draw.randrange(0xE000, 0x110000)))) for _ in range(200)
    )
    odd: tuple[Callable[[], str], ...] = (
        lambda: bomb(draw),
        lambda: json.dumps({"text": value(draw, place)}),
        lambda: json.dumps({text(draw, place): "x", "text": text(draw, place)}),
        lambda: json.dumps(value(draw, place)),
        lambda: '{"text": ' + "[" * (depth := draw.randint(100, 50_000)) + "]" * depth + "}",
        lambda: json.dumps({"text": alphabet}),
        lambda: json.dumps({"text": "a" + "\u0301" * draw.randint(10, 20_000)}),
        lambda: json.dumps({"text": "<eod> <unk> <s> </s> <0x00> \u2581"}),
        lambda: json.dumps({"text": "x" * draw.randint(1_000, 3_000_000)}),
        lambda: '{"text": "a"}' + draw.choice((",", " x", "\0", "\r", "}", '{"text": "b"}')),
    )
    kind = draw.randrange(len(odd))
    for _ in range(draw.choice((1, 1, 5, 60))):
        lines[draw.randrange(len(lines))] = odd[kind]()
    if draw.random() < 0.2:
        lines = [odd[kind]() for _ in range(draw.randint(0, 3))]
    return f"rows of kind {kind}: {what}", _file(place, "s.jsonl", "\n".join(lines).encode(errors="surrogatepass"))


def _bytes(draw: random.Random, place: Place) -> Made:
    data = "\n".join(json.dumps({"text": row}) for row in _texts(draw)).encode()
    return "bytes damaged", _file(place, draw.choice(("s.jsonl", "s.txt", "s.json")), damaged(draw, data))


def _parquet(draw: random.Random, place: Place) -> Made:
    """Parquet of other types, or whose bytes, mostly those of its footer, are damaged."""
    rows = _texts(draw)
    columns: tuple[Callable[[], Any], ...] = (
        lambda: pa.array(rows),
        lambda: pa.array(rows),
        lambda: pa.array([draw.randbytes(50) for _ in rows]),
        lambda: pa.array([[{"a": 1}]] * len(rows)),
        lambda: pa.array([None] * len(rows), pa.string()),
        lambda: pa.array([], pa.string()),
        lambda: pa.array(["a" * 1_000] * 200_000).dictionary_encode(),
    )
    which = draw.randrange(len(columns))
    buffer = io.BytesIO()
    schema = {"huggingface": '{"info": {"features": {"text": {"_type": "Evil"}}}}', "pandas": "[" * 50_000}
    made = pa.table({"text": columns[which]()})
    pq.write_table(made.replace_schema_metadata(schema) if draw.random() < 0.2 else made, buffer, compression="zstd")
    data = buffer.getvalue()
    spoilt = draw.random()
    if spoilt < 0.4:
        footer = max(len(data) - draw.randint(8, 1_200), 0)
        data = data[:footer] + damaged(draw, data[footer:])
    elif spoilt < 0.6:
        data = damaged(draw, data)
    elif spoilt < 0.7:
        data = b"PAR1" + draw.randbytes(draw.randint(0, 5_000)) + b"PAR1"
    return f"parquet of kind {which}", _file(place, "s.parquet", data)


def _packed(draw: random.Random, place: Place) -> Made:
    """Archives and pickles by the name of a text."""
    data = "\n".join(json.dumps({"text": row}) for row in _texts(draw)).encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../outside/canary", data)
    kinds: dict[str, Callable[[], bytes]] = {
        "gzip": lambda: gzip.compress(data),
        "bzip2": lambda: bz2.compress(data),
        "a gzip bomb": lambda: gzip.compress(data + b'{"text": "' + b"a" * (100 << 20) + b'"}\n', 1),
        "zstd": lambda: _zstd(data),
        "a zstd bomb": lambda: _zstd(b"[" * draw.randint(0, 1) + b'{"text": "' + b"a" * (200 << 20)),
        "a damaged stream": lambda: damaged(draw, draw.choice((gzip.compress, _zstd))(data)),
        "two streams": lambda: gzip.compress(data) + gzip.compress(b"\n" + data),
        "zip": archive.getvalue,
        "a pickle": lambda: pickle.dumps(attack(draw, place)),
    }
    kind = draw.choice(list(kinds))
    gz = ("s.jsonl.gz", "s.json.gz", "s.txt.gz", "s.parquet.gz", "s.arrow.gz")
    zst = ("s.jsonl.zst", "s.json.ZST", "s.md.zst", "s.parquet.zst", "s.arrow.zst")
    name = draw.choice(("s.jsonl", "s.txt", "s.parquet", *(zst if "zstd" in kind else gz) * 2))
    return f"{kind} as {name}", _file(place, name, kinds[kind]())


def _zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


def _arrow(draw: random.Random, place: Place) -> Made:
    """Arrow of other types, compressed within, or whose bytes are damaged."""
    rows = _texts(draw)
    columns: tuple[Callable[[], Any], ...] = (
        lambda: pa.array(rows),
        lambda: pa.array(rows, pa.large_string()),
        lambda: pa.array([draw.randbytes(50) for _ in rows]).view(pa.string()),
        lambda: pa.array(rows).dictionary_encode(),
        lambda: pa.array([{"a": row} for row in rows]),
        lambda: pa.array([None] * len(rows)),
    )
    which = draw.randrange(len(columns))
    table = pa.table({"n": range(len(rows)), "text": columns[which]()})
    buffer = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=draw.choice((None, "zstd", "lz4")))
    with draw.choice((pa.ipc.new_file, pa.ipc.new_stream))(buffer, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=40)
    data = damaged(draw, buffer.getvalue()) if draw.random() < 0.7 else buffer.getvalue()
    return f"arrow of kind {which}", _file(place, "s.arrow", data)


def _saved(draw: random.Random, place: Place) -> Made:
    """A folder of ``save_to_disk`` whose records are hostile."""
    folder = place.folder / "in" / draw.choice((".", "saved"))
    folder.mkdir(parents=True)
    with pa.ipc.new_stream(folder / "data.arrow", pa.schema({"text": pa.string()})) as writer:
        writer.write_table(pa.table({"text": _texts(draw)}))
    names: tuple[object, ...] = (
        "data.arrow",
        "../outside/corpus/prose.train.bin",
        str(place.outside),
        value(draw, place),
    )
    what, bomb = draw.choice(JSON_BOMBS)
    state = json.dumps({"_data_files": [{"filename": draw.choice(names)} for _ in range(draw.randint(0, 3))]})
    (folder / "state.json").write_text(draw.choice((state, state, bomb(draw))), errors="surrogatepass")
    (folder / "dataset_info.json").write_text("{}")
    if draw.random() < 0.3:
        splits: Any = draw.choice((["train"], ["../outside"], value(draw, place), {}))
        (folder / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    return f"a saved dataset: {what}", ["--source", "x=in"]


def _plain(draw: random.Random, place: Place) -> Made:
    kinds: dict[str, bytes] = {
        "nothing": b"",
        "zeros": bytes(draw.randint(1, 100_000)),
        "random bytes": draw.randbytes(draw.randint(1, 200_000)),
        "one long line": b"word " * draw.randint(1, 200_000),
        "line ends": b"\n" * draw.randint(1, 200_000),
        "controls": bytes(range(32)) * draw.randint(1, 2_000),
        "the same again": b"hello hello\n\n" * draw.randint(1, 5_000),
    }
    kind = draw.choice(list(kinds))
    return f"text: {kind}", _file(place, "s.txt", kinds[kind])


def _name(draw: random.Random, place: Place) -> Made:
    """A good file, or its domain, has a hostile name."""
    data = "\n".join(json.dumps({"text": row}) for row in _texts(draw)).encode()
    name = text(draw, place)
    if draw.random() < 0.4:
        options = _file(place, "s.jsonl", data)
        return f"a domain named {name[:60]!r}", ["--source", f"{name}={options[1].partition('=')[2]}"]
    path = place.folder / "in" / (name.replace("/", "_").replace("\0", "") + ".jsonl")
    path.parent.mkdir()
    if len(os.fsencode(path.name)) <= 255:
        path.write_bytes(data)
    return f"a file named {name[:60]!r}", ["--source", f"x={draw.choice((f'in/{path.name}', 'in', name))}"]


def _odd(draw: random.Random, place: Place) -> Made:
    """A source, or something in a folder of sources, is no regular file."""
    data = "\n".join(json.dumps({"text": row}) for row in _texts(draw)).encode()
    options = _file(place, "s.jsonl", data)
    path = place.folder / "in" / draw.choice(("s.jsonl", "t.jsonl", "t.txt"))
    what = odd_files.replace(draw, path, place, links_out=False, hole=False)
    return f"{path.name} is {what}", draw.choice((options, ["--source", "x=in"]))


def _option(draw: random.Random, place: Place) -> Made:
    options = _file(place, "s.jsonl", "\n".join(json.dumps({"text": row}) for row in _texts(draw)).encode())
    hostile = draw.choice((str(draw.choice(NUMBERS)), text(draw, place)))
    of_numbers = ("--vocab-size", "--validation-fraction", "--max-bytes-per-domain", "--bad-rows")
    names = (*of_numbers, "--text-field", "--corpus", "--source", "--source", "--validation")
    name = draw.choice(names)
    more = ["--gpt2-vocab", hostile, "--gpt2-merges", "in/s.jsonl"] if draw.random() < 0.15 else [f"{name}={hostile}"]
    if name == "--source":
        (place.folder / "names").write_text(f"{hostile}\nin/s.jsonl\n", errors="surrogateescape")
        places = (
            hostile,
            f"y={hostile}",
            f"y=hf:{hostile}",
            f"y=glob:in/{hostile}",
            "y=list:names",
            f"y=list:{hostile}",
        )
        more = ["--source", draw.choice(places)]
    elif name == "--validation":
        more = ["--validation", draw.choice((hostile, f"x={hostile}", f"x=glob:in/{hostile}", "x=in/s.jsonl"))]
    elif name == "--corpus":
        options = []
        more = ["--corpus", "x" + hostile]  # of the two that there are neither: they would be fetched
    if name == "--vocab-size" and "=" in more[0]:
        more = ["--vocab-size", hostile]
    return f"{more[0]}: {hostile[:60]!r}", [*options, *more]


def _out(draw: random.Random, place: Place) -> Made:
    """Something lies where the corpus is to be, or where the command works."""
    options = _file(place, "s.jsonl", "\n".join(json.dumps({"text": row}) for row in _texts(draw)).encode())
    path = place.folder / draw.choice(("out", "out.partial", "out.replaced"))
    what = odd_files.replace(draw, path, place)
    return f"{path.name} is {what}", [*options, *draw.choice(([], ["--force"]))]


def _file(place: Place, name: str, data: bytes) -> list[str]:
    path = place.folder / "in" / name
    path.parent.mkdir()
    Path(path).write_bytes(data)
    return ["--source", f"x=in/{name}"]


SOURCES = InputClass("sources", 330, make)
