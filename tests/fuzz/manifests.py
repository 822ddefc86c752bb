"""Manifests of checkpoints, corpora and exported models, and the small records beside them, with hashes that fit."""

from __future__ import annotations

import json
import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.fuzz.bombs import JSON_BOMBS
from tests.fuzz.hostile import breakouts, damaged, spoilt, text, ways_out
from tests.fuzz.inputs import Input, InputClass, Material
from tests.fuzz.odd_files import replace
from tests.fuzz.place import Place
from tests.fuzz.sealing import seal_checkpoint, write_json

STEP = "run/checkpoints/step-00000004"
LOOK = (
    ["checkpoint", "list", "run"],
    ["checkpoint", "verify", "run"],
    ["checkpoint", "inspect", "run"],
    ["report", "run"],
    ["status", "run"],
)


def make(draw: random.Random, number: int, place: Place, material: Material) -> Input:
    if number == 0:
        shutil.copytree(material.run, place.folder / "run")
        shutil.copytree(material.exported, place.folder / "exported")
        return Input("valid", [*LOOK, ["checkpoint", "import", "exported", "imported"]], valid=True)
    subjects = (_checkpoint, _corpus, _export, _record)
    return subjects[number % len(subjects)](draw, place, material)


def _checkpoint(draw: random.Random, place: Place, material: Material) -> Input:
    shutil.copytree(material.run, place.folder / "run")
    folder = place.folder / STEP
    path = folder / draw.choice(("manifest.json", "manifest.json", "state.json"))
    what = _spoil(draw, place, path)
    if draw.random() < 0.8:
        _seal(folder, path)
    return Input(f"checkpoint: {what}", [*draw.sample(LOOK[:3], 2), draw.choice(LOOK)])


def _corpus(draw: random.Random, place: Place, material: Material) -> Input:
    shutil.copytree(material.corpus, place.folder / "corpus", ignore=shutil.ignore_patterns("cache"))
    what = _spoil(draw, place, place.folder / "corpus/manifest.json")
    verify = draw.choice((["--verify", "size"], ["--verify", "hash"]))
    return Input(f"corpus: {what}", [["data", "show", "corpus", *verify]])


def _export(draw: random.Random, place: Place, material: Material) -> Input:
    shutil.copytree(material.exported, place.folder / "exported")
    what = _spoil(draw, place, place.folder / "exported/export.json")
    return Input(f"export: {what}", [["checkpoint", "import", "exported", "imported"]])


def _record(draw: random.Random, place: Place, material: Material) -> Input:
    """A file in a run directory that is not a checkpoint: metrics, heartbeat, usage, the job's."""
    shutil.copytree(material.run, place.folder / "run")
    names = (
        "metrics.jsonl",
        "expert_usage.jsonl",
        "heartbeat.json",
        "job/job.json",
        "job/attempts.jsonl",
        "probe/probe.json",
    )
    path = place.folder / "run" / draw.choice(names)
    path.parent.mkdir(exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else ['{"step": 1, "state": "running", "loss": 2.0}']
    at = draw.randrange(len(lines))
    kind = draw.randrange(4)
    if kind == 0:
        what = replace(draw, path, place, links_out=False)
    else:
        what, bomb = draw.choice(JSON_BOMBS)
        lines[at] = bomb(draw) if kind == 1 else json.dumps(spoilt(draw, json.loads(lines[at]), place))
        data = "\n".join(lines).encode(errors="surrogatepass")
        path.write_bytes(damaged(draw, data) if kind == 2 else data)
    return Input(f"{path.name}: {what}", [LOOK[3], LOOK[4]])


def _seal(folder: Path, spoilt_file: Path) -> None:
    """Make the hashes of a checkpoint fit, unless its manifest is not one any more."""
    if spoilt_file.name != "manifest.json":
        seal_checkpoint(folder)
        return
    with suppress(OSError, ValueError, RecursionError):
        if spoilt_file.is_file() and not spoilt_file.is_symlink():
            seal_checkpoint(folder, json.loads(spoilt_file.read_bytes()))


def _spoil(draw: random.Random, place: Place, path: Path) -> str:
    """Spoil the manifest at ``path`` in one way; returns how."""
    tree = json.loads(path.read_text())
    kind = draw.randrange(10)
    if kind == 0:
        return replace(draw, path, place, links_out=False)
    if kind == 1:
        what, bomb = draw.choice(JSON_BOMBS)
        path.write_text(bomb(draw), encoding="utf-8", errors="surrogatepass")
        return what
    if kind == 2:
        path.write_bytes(damaged(draw, path.read_bytes()))
        return "bytes damaged"
    if kind < 6 and isinstance(tree.get("files"), dict):
        what, tree["files"] = _named(draw, place, path.parent, dict(tree["files"]))
    else:
        what = "spoilt"
        for _ in range(draw.choice((1, 1, 3))):
            tree = spoilt(draw, tree, place)
    write_json(path, tree)
    return what


def _named(draw: random.Random, place: Place, folder: Path, files: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A file that leads elsewhere, is odd, or is not there; its record is that of what it leads to."""
    name = draw.choice(list(files))
    kind = draw.randrange(4)
    if kind == 0:
        return f"{name} is {replace(draw, folder / name, place)}", files
    if kind == 1:
        return "no files", {}
    elsewhere = draw.choice((draw.choice(ways_out(place, name)), text(draw, place), draw.choice(breakouts(place))))
    target = place.outside / name
    record = dict(files[name], num_bytes=target.stat().st_size) if target.is_file() else files[name]
    if kind == 2:
        files.pop(name)
    return f"a file named {elsewhere[:60]!r}", {**files, elsewhere: record}


MANIFESTS = InputClass("manifests", 600, make)
