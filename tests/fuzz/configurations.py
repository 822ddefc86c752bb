"""Configurations, overrides, experiments, cluster profiles and DeepSpeed files."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import yaml

from tests.fuzz.bombs import JSON_BOMBS, YAML_BOMBS
from tests.fuzz.hostile import NUMBERS, damaged, spoilt, text, value
from tests.fuzz.inputs import Input, InputClass, Material
from tests.fuzz.place import Place
from unipool_dist.config import Config
from unipool_dist.config.fields import fields_of

FIELDS = [name for name, field in fields_of(Config)]
VALID: dict[str, Any] = {
    "model": {"num_layers": 4, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 4, "vocab_size": 320},
    "pool": {"num_experts": 8, "top_k": 2, "balance": {"loss": "pool", "alpha": 0.01}},
    "parallel": {"pp": 1, "dp": "auto", "tp": 1},
    "data": {"path": "corpus", "weights": {"prose": 1, "sums": 2.5}},
    "optimizer": {"lr": 3.0e-3, "min_lr": 2.0e-4, "warmup_steps": 1},
    "train": {"steps": 4, "global_batch_size": 8, "micro_batch_size": 2, "seed": 5},
    "checkpoint": {"interval": 2},
    "run": {"dir": "runs/x"},
}
EXPERIMENT: dict[str, Any] = {
    "output": "runs/e",
    "base": "valid.yaml",
    "set": {"train.steps": 3},
    "seeds": [1, 2],
    "baseline": "a",
    "variants": {"a": {}, "b": {"set": {"pool.top_k": 1}}},
}
PROFILE: dict[str, Any] = {
    "partition": "gpu",
    "account": "lab",
    "modules": ["cuda/12"],
    "environment": {"X": "1"},
    "network_interface": "ib0",
    "setup": ["true"],
    "sbatch": ["--exclusive"],
    "warning_s": 120,
}
RAW: tuple[str, ...] = (
    *(
        "!!int abc",
        "!!float abc",
        "!!bool abc",
        "!!timestamp abc",
        "!!binary abc",
        "!!null x",
        "!!set {a, b}",
        "!foo bar",
    ),
    *("!!omap [a: 1, b: 2]", "!!pairs [a: 1]", "!!python/tuple [1, 2]", "!!python/name:os.system", "!!str {a: 1}"),
    *(
        "2020-99-99",
        "2001-02-30",
        "2001-12-14t21:59:43.10-05:00",
        "0100",
        "010",
        "0x10",
        "0b11",
        "0o17",
        "1:40",
        "190:20:30",
    ),
    *(
        "on",
        "off",
        "yes",
        "No",
        "~",
        "1_000",
        "a #2",
        "1e3",
        "1e400",
        "1.e",
        ".5",
        "+7",
        "\u0661",
        "1,5",
        "=",
        "<<",
        "? a",
        "- a",
    ),
    *(
        "&a [*a]",
        "&a {x: *a}",
        "*nope",
        "{1: 2}",
        "{null: 1}",
        "{a: 1, a: 2}",
        "{<<: {a: 1}}",
        "{<<: 1}",
        "{? [a] : b}",
        "[",
        "{",
    ),
    *(
        '"\\ud800"',
        '"\\0"',
        "'",
        '"',
        "|\n   a\n   b",
        ">\n  a",
        "@x",
        "%x",
        "`x`",
        "\t",
        "9" * 4400,
        "[" * 900,
        "{a: " * 400,
    ),
)
"""Written as they are, where a value belongs."""
_JOB = ["--nodes=1", "--gpus-per-node=1", "--time=60", "--dry-run"]
_COMMANDS = {
    "configuration": ["model", "input.yaml"],
    "experiment": ["experiment", "input.yaml", "--dry-run"],
    "profile": ["submit", "valid.yaml", "--profile", "input.yaml", *_JOB],
}
TREES: dict[str, Any] = {"configuration": VALID, "experiment": EXPERIMENT, "profile": PROFILE}


def make(draw: random.Random, number: int, place: Place, material: Material) -> Input:
    (place.folder / "corpus").symlink_to(material.corpus)
    (place.folder / "valid.yaml").write_text(yaml.safe_dump(VALID))
    if number == 0:
        (place.folder / "input.yaml").write_text(yaml.safe_dump(EXPERIMENT))
        return Input("valid", [["model", "valid.yaml"], _COMMANDS["experiment"]], valid=True)
    if number % 2 and number // 2 < len(YAML_BOMBS):  # each of them, early on
        what, bomb = YAML_BOMBS[number // 2]
        return _written(bomb(draw).encode(), draw.choice(list(TREES)), what, place)
    ways = (_field, _field, _override, _override, _overrides, _tree, _bytes, _bomb, _deepspeed)
    return draw.choice(ways)(draw, place)


def _written(data: bytes, kind: str, what: str, place: Place) -> Input:
    """The input is a file of this kind."""
    (place.folder / "input.yaml").write_bytes(data)
    return Input(f"{kind}: {what}", [_COMMANDS[kind]], may_read=True)


def _field(draw: random.Random, place: Place) -> Input:
    """One field has a value that is no value of its type, or an extreme one."""
    section, _, field = draw.choice(FIELDS).partition(".")
    raw = _raw(draw, place)
    tree = {key: dict(section) for key, section in VALID.items()}
    tree.setdefault(section, {})[field or "x"] = "HERE"
    data = yaml.safe_dump(tree).replace("HERE", raw).encode(errors="surrogatepass")
    return _written(data, "configuration", f"{section}.{field}: {raw[:60]!r}", place)


def _raw(draw: random.Random, place: Place) -> str:
    """A value as it is written in YAML."""
    if draw.random() < 0.5:
        return draw.choice(RAW)
    return _dumped(draw.choice(NUMBERS) if draw.random() < 0.5 else value(draw, place))


def _dumped(tree: Any) -> str:
    return yaml.safe_dump(tree, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip("\n")


def _override(draw: random.Random, place: Place) -> Input:
    field, raw = draw.choice(FIELDS), _raw(draw, place).replace("\0", "")
    nproc = draw.choice(([], [], ["--nproc", str(draw.choice((1, 2, 7, 10**6, 10**15)))]))
    return Input(
        f"override {field}={raw[:60]!r}", [["model", "valid.yaml", *nproc, "--", f"{field}={raw}"]], may_read=True
    )


def _overrides(draw: random.Random, place: Place) -> Input:
    """Not even of the form of an override, or of a field that there is not, or many at once."""
    forms: tuple[Callable[[str], str], ...] = (
        lambda name: name,
        lambda name: name + "=",
        lambda name: "=" + name,
        lambda name: f"model.{name}=1",
        lambda name: f"{name}.num_layers=1",
        lambda name: f"{draw.choice(FIELDS)}.{name}=1",
        lambda name: f"{draw.choice(FIELDS)}={draw.choice(NUMBERS)}\n{draw.choice(FIELDS)}=1",
        lambda name: ".".join([name] * draw.randint(2, 2_000)) + "=1",
        lambda name: f"{draw.choice(FIELDS)}={draw.choice(NUMBERS)}",
    )
    given = [draw.choice(forms)(text(draw, place)).replace("\0", "") for _ in range(draw.randint(1, 4))]
    given = [item.encode(errors="surrogateescape").decode(errors="surrogateescape") for item in given]
    return Input(f"overrides {str(given)[:80]}", [["model", "valid.yaml", "--", *given]], may_read=True)


def _tree(draw: random.Random, place: Place) -> Input:
    """Nodes of a valid file are lost, renamed, doubled or hostile."""
    kind = draw.choice(list(TREES))
    tree = TREES[kind]
    for _ in range(draw.choice((1, 1, 2, 4))):
        tree = spoilt(draw, tree, place)
    return _written(yaml.safe_dump(tree).encode(errors="surrogatepass"), kind, "spoilt", place)


def _bytes(draw: random.Random, place: Place) -> Input:
    kind = draw.choice(list(TREES))
    data = yaml.safe_dump(TREES[kind]).encode()
    encoding = draw.random()
    if encoding < 0.1:
        data = data.decode().encode("utf-16")
    elif encoding < 0.2:
        data = draw.randbytes(draw.randint(1, 3_000))
    return _written(damaged(draw, data), kind, "bytes damaged", place)


def _bomb(draw: random.Random, place: Place) -> Input:
    what, bomb = draw.choice(YAML_BOMBS)
    return _written(bomb(draw).encode(), draw.choice(list(TREES)), what, place)


def _deepspeed(draw: random.Random, place: Place) -> Input:
    valid = {"zero_optimization": {"stage": 1}, "train_micro_batch_size_per_gpu": "auto", "fp16": {"enabled": False}}
    what, bomb = draw.choice(JSON_BOMBS)
    data = bomb(draw) if draw.random() < 0.5 else json.dumps(spoilt(draw, valid, place))
    (place.folder / "ds.json").write_text(data, encoding="utf-8", errors="surrogatepass")
    return Input(f"DeepSpeed file: {what}", [["model", "valid.yaml", "optimizer.deepspeed=ds.json"]])


CONFIGURATIONS = InputClass("configurations", 2000, make)
