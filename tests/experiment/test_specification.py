"""What an experiment's file may say, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from unipool_dist.errors import ConfigError
from unipool_dist.experiment.specification import foreign_freeze, freeze_experiment, read_experiment

GOOD = "output: out\nseeds: [1, 2]\nvariants:\n  a: {}\n  b: {seeds: [3], set: {train.steps: 5}}\n"


def read(tmp_path: Path, text: str) -> str:
    """The error in which reading ``text`` ends."""
    (tmp_path / "exp.yaml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_experiment(tmp_path / "exp.yaml")
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "must be a mapping of title"),
        ("output: [", "cannot be read as YAML"),
        (GOOD + "sedes: [1]\n", "sedes: no such field"),
        (GOOD.replace("seeds: [3]", "seed: 3"), "variants.b.seed: no such field"),
        ("seeds: [1]\nvariants: {a: {}}\n", "output: Field required"),
        (GOOD.replace("[1, 2]", "[]"), "seeds: there is none"),
        (GOOD.replace("[1, 2]", "[1, 2, 1]"), "seeds: 1 is there twice"),
        (GOOD.replace("[1, 2]", '["1"]'), "seeds.0: "),
        (GOOD.replace("[3]", "[-3]"), "variants.b.seeds.0: "),
        ("output: out\nseeds: [1]\nvariants: {}\n", "variants: there is none"),
        (GOOD.replace("  a:", "  7:"), "names must be text"),
        (GOOD.replace("  a:", "  a/b:"), "variants.a/b: cannot be the name of a directory"),
        (GOOD.replace("  a:", "  ..:"), "variants...: cannot be the name of a directory"),
        (GOOD.replace("  a:", "  job:"), "OUTPUT/job has another purpose"),
        (GOOD.replace("  a:", "  figures:"), "OUTPUT/figures has another purpose"),
        (GOOD.replace("a: {}", "a: {title: X}").replace("b: {", "b: {title: X, "), "a and b have the same title 'X'"),
        (GOOD.replace("a: {}", "a: {title: b}"), "a and b have the same title 'b'"),
        (GOOD + "  a: {}\n", "a is there twice"),
        (GOOD.replace("[1, 2]", "[4294967296]"), "seeds.0: Input should be less than or equal to 4294967295"),
        (GOOD.replace("[1, 2]", "[010]"), "010 is another number in YAML 1.1"),
        (GOOD.replace("out\n", "''\n"), "output: a path cannot be empty"),
        (GOOD.replace("out\n", '"a\\0b"\n'), "output: a path cannot have control characters"),
        (GOOD.replace("out\n", "x" * 256 + "\n"), "output: a name in a path cannot have more than 255 bytes"),
        (GOOD.replace("  a:", f"  {'a' * 151}:"), "cannot be the name of a directory"),
        (GOOD.replace("set: {", "set: {train.steps: 4, "), "train.steps is there twice"),
        (GOOD + "set: &a {x.y: *a}\n", "*a is inside the node that it refers to"),
        (GOOD + "set: {x.y: !!timestamp abc}\n", "the tag !!timestamp is not taken"),
        (GOOD + "".join(f"k{n}: 1\n" for n in range(5000)), "and 4,980 more"),
        (GOOD + "baseline: c\n", "baseline: c is none of the variants (a, b)"),
        (GOOD.replace("train.steps", "steps"), "variants.b.set: steps must be of the form section.field"),
        (GOOD.replace("train.steps", "train.seed"), "train.seed follows from seeds"),
        (GOOD + "set: {run.dir: x}\n", "run.dir follows from output"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    message = read(tmp_path, text)
    assert said in message
    assert len(message) < 3000


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    said = read(tmp_path, "output: out\nseeds: []\nbaseline: z\nvariants: {a b: {}}\n")
    assert all(part in said for part in ("seeds:", "baseline:", "variants.a b:", "its fields: title"))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no experiment at"):
        read_experiment(tmp_path / "exp.yaml")


def test_the_frozen_file_says_what_the_file_says_and_nothing_else(tmp_path: Path) -> None:
    values = {
        "title": "Größe",
        "output": str(tmp_path / "deep" / "out"),
        "seeds": [2, 1],
        "baseline": "b",
        "variants": {"b": {"set": {"optimizer.lr": 0.001, "data.weights": {"web": 2.0}}}, "a": {}},
    }
    (tmp_path / "exp.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    experiment = read_experiment(tmp_path / "exp.yaml")
    freeze_experiment(experiment, tmp_path / "exp.yaml")
    frozen = tmp_path / "deep" / "out" / "experiment.yaml"
    assert yaml.safe_load(frozen.read_text()) == values
    assert list(yaml.safe_load(frozen.read_text())["variants"]) == ["b", "a"]
    assert read_experiment(frozen) == experiment
    freeze_experiment(experiment, tmp_path / "exp.yaml")
    assert foreign_freeze(experiment, tmp_path / "exp.yaml", begun=False) == []


def test_a_file_of_the_user_is_not_replaced_and_one_of_an_earlier_version_is(tmp_path: Path) -> None:
    values = {"output": str(tmp_path / "out"), "seeds": [1], "variants": {"b": {}}}
    (tmp_path / "out").mkdir()
    mine, frozen = tmp_path / "exp.yaml", tmp_path / "out" / "experiment.yaml"
    for path in (mine, frozen):
        path.write_text("# with a comment\n" + yaml.safe_dump(values))
    experiment = read_experiment(mine)
    assert foreign_freeze(experiment, mine, begun=True) == [frozen]
    assert foreign_freeze(experiment, frozen, begun=True) == []
    freeze_experiment(experiment, frozen)
    assert frozen.read_text().startswith("# with a comment"), "it is the experiment's file itself"
    frozen.write_text(yaml.safe_dump(experiment.model_dump(exclude_unset=True), sort_keys=False, allow_unicode=True))
    assert foreign_freeze(experiment, mine, begun=True) == []
    assert foreign_freeze(experiment, mine, begun=False) == [frozen]
