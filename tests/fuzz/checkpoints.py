"""Checkpoints whose manifest fits: hostile pickles as index, an index that lies, records that are something else."""

from __future__ import annotations

import io
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, TensorProperties

from tests.fuzz import odd_files
from tests.fuzz.bombs import YAML_BOMBS
from tests.fuzz.hostile import NUMBERS, damaged, spoilt, text, value, ways_out
from tests.fuzz.inputs import Input, InputClass, Material
from tests.fuzz.manifests import STEP
from tests.fuzz.pickles import attack, saved, stream
from tests.fuzz.place import Place
from tests.fuzz.sealing import seal_checkpoint, write_json

COMMANDS = (
    ["checkpoint", "inspect", "run", "--tensors"],
    ["checkpoint", "reshard", "run", "resharded", "--files", "2"],
    ["checkpoint", "export", "run", "exported"],
    ["generate", "run", "--prompt", "a", "--max-tokens", "2", "data.path=corpus"],
)
_TYPES = (torch.complex64, torch.int8, torch.quint8)
RESUME = ["train", "valid.yaml", "--resume", "run.dir=run", "data.path=corpus", "train.steps=5"]


def make(draw: random.Random, number: int, place: Place, material: Material) -> Input:
    shutil.copytree(material.run, place.folder / "run", ignore=shutil.ignore_patterns("step-00000002"))
    shutil.copytree(material.corpus, place.folder / "corpus")
    shutil.copy(material.run / "config.yaml", place.folder / "valid.yaml")
    folder = place.folder / STEP
    if number == 0:
        return Input("valid", [*COMMANDS, RESUME], valid=True)
    ways = (_pickle, _tensor, _tensor, _record, _record, _part, _part, _bytes, _state, _config, _odd)
    what = ways[number % len(ways)](draw, place, folder)
    seal_checkpoint(folder)
    commands = [draw.choice(COMMANDS[:3]), RESUME if draw.random() < 0.3 else draw.choice(COMMANDS)]
    return Input(what, commands)


def _pickle(draw: random.Random, place: Place, folder: Path) -> str:
    """The index is another pickle, or has one inside."""
    if draw.random() < 0.6:
        (folder / ".metadata").write_bytes(stream(draw, place))
        return "the index is a hostile pickle"
    index = _index(folder)
    setattr(index, draw.choice(("planner_data", "storage_data", "state_dict_metadata")), attack(draw, place))
    _write(folder, index)
    return "an attack in the index"


def _tensor(draw: random.Random, place: Place, folder: Path) -> str:
    """What the index says of a tensor is not so."""
    index = _index(folder)
    names = list(index.state_dict_metadata)
    name = draw.choice(names)
    tensor: Any = index.state_dict_metadata[name]
    odd = draw.choice((*NUMBERS, "x", (), None, torch.Size([2**40]), torch.Size([0]), torch.Size([-1])))
    changes: dict[str, Callable[[], object]] = {
        "size": lambda: setattr(tensor, "size", odd),
        "sizes": lambda: setattr(tensor, "size", torch.Size([2**31, 2**31])),
        "chunks": lambda: setattr(tensor, "chunks", draw.choice((None, [], [odd], tensor.chunks * 3))),
        "a chunk's offsets": lambda: setattr(tensor.chunks[0], "offsets", odd),
        "a chunk's sizes": lambda: setattr(tensor.chunks[0], "sizes", odd),
        "properties": lambda: setattr(tensor, "properties", odd),
        "type": lambda: setattr(tensor, "properties", TensorProperties(dtype=draw.choice(_TYPES))),
        "type as text": lambda: setattr(tensor.properties, "dtype", odd),
        "kind": lambda: index.state_dict_metadata.__setitem__(name, BytesStorageMetadata()),
        "value": lambda: index.state_dict_metadata.__setitem__(name, odd),
        "name": lambda: index.state_dict_metadata.__setitem__(text(draw, place), index.state_dict_metadata.pop(name)),
        "key": lambda: index.state_dict_metadata.__setitem__(odd if not isinstance(odd, list) else "x", tensor),
        "absence": lambda: index.state_dict_metadata.pop(name),
        "number": lambda: index.state_dict_metadata.update({f"{name}{i}": tensor for i in range(20_000)}),
        "fields": lambda: index.__dict__.pop(draw.choice(list(index.__dict__))),
    }
    change = draw.choice(list(changes))
    changes[change]()
    _write(folder, index)
    return f"the {change} of {name}: {str(odd)[:40]}"


def _record(draw: random.Random, place: Place, folder: Path) -> str:
    """Where the index looks for records is somewhere else."""
    index = _index(folder)
    names = list(index.storage_data)
    chosen = names if draw.random() < 0.5 else draw.sample(names, 1)
    field = draw.choice(("relative_path", "relative_path", "offset", "length"))
    if field == "relative_path":
        odd = draw.choice(
            (draw.choice(ways_out(place, f"{STEP[4:]}/__0_0.distcp")), text(draw, place), value(draw, place, 0))
        )
    else:
        odd = draw.choice(NUMBERS)
    for name in chosen:
        index.storage_data[name] = replace(index.storage_data[name], **{field: odd})
    _write(folder, index)
    return f"the {field} of {len(chosen)} records: {str(odd)[:60]!r}"


def _part(draw: random.Random, place: Place, folder: Path) -> str:
    """The record of a tensor is something else."""
    index = _index(folder)
    names = list(index.storage_data)
    chosen = names if draw.random() < 0.3 else draw.sample(names, 1)
    file = folder / index.storage_data[chosen[0]].relative_path
    old = index.storage_data[chosen[0]]
    content = file.read_bytes()
    record = content[old.offset : old.offset + old.length]
    kinds: dict[str, Callable[[], bytes]] = {
        "a hostile pickle": lambda: stream(draw, place),
        "an attack that torch.save made": lambda: saved([torch.zeros(3), attack(draw, place)]),
        "a damaged record": lambda: damaged(draw, record),
        "a compressed archive": lambda: _archive({"x/data/0": bytes(64)}, zipfile.ZIP_DEFLATED),
        "a zip bomb": lambda: _archive({"x/data/0": bytes(64 << 20)}, zipfile.ZIP_DEFLATED),
        "an archive of many": lambda: _archive({f"f{i}": b"" for i in range(5_000)}, zipfile.ZIP_STORED),
        "an archive that leads out": lambda: _archive({"../../outside/canary": b"x"}, zipfile.ZIP_STORED),
        "zeros": lambda: bytes(len(record)),
        "nothing": lambda: b"",
    }
    kind = draw.choice(list(kinds))
    new = kinds[kind]()
    file.write_bytes(content + new)
    for name in chosen:
        index.storage_data[name] = replace(old, offset=len(content), length=len(new))
    _write(folder, index)
    return f"{kind} as {len(chosen)} records"


def _bytes(draw: random.Random, place: Place, folder: Path) -> str:
    path = draw.choice(sorted(folder.iterdir()))
    path.write_bytes(damaged(draw, path.read_bytes()))
    return f"{path.name}: bytes damaged"


def _state(draw: random.Random, place: Place, folder: Path) -> str:
    import json

    tree = json.loads((folder / "state.json").read_text())
    for _ in range(draw.choice((1, 1, 3))):
        tree = spoilt(draw, tree, place)
    write_json(folder / "state.json", tree)
    return "state.json: spoilt"


def _config(draw: random.Random, place: Place, folder: Path) -> str:
    """The configuration in the checkpoint, and in the run."""
    path = draw.choice((folder / "config.yaml", folder.parents[1] / "config.yaml"))
    what, bomb = draw.choice(YAML_BOMBS)
    path.write_text(bomb(draw)) if draw.random() < 0.5 else path.write_bytes(damaged(draw, path.read_bytes()))
    return f"{path.name}: {what}"


def _odd(draw: random.Random, place: Place, folder: Path) -> str:
    path = draw.choice(sorted(folder.iterdir()))
    return f"{path.name} is {odd_files.replace(draw, path, place)}"


def _index(folder: Path) -> Metadata:
    index = pickle.loads((folder / ".metadata").read_bytes())
    assert isinstance(index, Metadata)
    return index


def _write(folder: Path, index: Any) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(index))


def _archive(files: dict[str, bytes], compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


CHECKPOINTS = InputClass("checkpoints", 300, make)
