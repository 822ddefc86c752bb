"""An override means what its text says for the field's type, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unipool_dist.config import Config, dump_config, load_config
from unipool_dist.config.fields import branches, fields_of, is_section
from unipool_dist.errors import ConfigError


def value(override: str) -> Any:
    node: Any = load_config(None, [override])
    for key in override.partition("=")[0].split("."):
        node = node[key] if isinstance(node, dict) else getattr(node, key)
    return node


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("train.steps=0100", 100),
        ("train.seed=010", 10),
        ("train.seed=008", 8),
        ("train.steps=1_000", 1000),
        ("train.seed=0x10", 16),
        ("parallel.dp=010", 10),
        ("parallel.dp=auto", "auto"),
        ("pool.parallel_size=null", None),
        ("pool.parallel_size=02", 2),
        ("optimizer.lr=1e-3", 1e-3),
        ("optimizer.lr=010.5", 10.5),
        ("optimizer.lr=01", 1.0),
        ("run.watchdog_s=null", None),
        ("data.weights={a: 1e-3, b: 2}", {"a": 1e-3, "b": 2.0}),
        ("data.weights={'a #2': 1}", {"a #2": 1.0}),
        ("data.weights.web=010", 10.0),
        ("data.weights.on=2", 2.0),
        ("log.tensorboard=off", False),
        ("log.tensorboard=No", False),
        ("checkpoint.asynchronous=on", True),
        ("parallel.recompute=TRUE", True),
        ("run.dir=runs/a #2", "runs/a #2"),
        ("run.dir=#2", "#2"),
        ("run.dir=0100", "0100"),
        ("run.dir=1:40", "1:40"),
        ("run.dir=on", "on"),
        ("run.dir=null", "null"),
        ("run.dir=2020-01-01", "2020-01-01"),
        ("run.dir=[x", "[x"),
        ("run.dir={a: b}", "{a: b}"),
        ("run.dir=a=b", "a=b"),
        ("run.dir=*x", "*x"),
        ("run.dir=!!int 3", "!!int 3"),
        ("run.dir=./~", "./~"),
        ("run.dir='it''s #1'", "it's #1"),
        ('run.dir="a b"', "a b"),
        ("optimizer.deepspeed=null", None),
        ("optimizer.deepspeed=none", "none"),
    ],
)
def test_the_text_means_what_it_says(override: str, meant: Any) -> None:
    found = value(override)
    assert found == meant and type(found) is type(meant)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.steps=1:40", "1:40 is another number in YAML 1.1"),
        ("train.steps=0b11", "0b11 is another number"),
        ("train.steps=1__0", "1__0 is another number"),
        ("train.steps=0o17", "train.steps=0o17 must be a whole number"),
        ("train.steps=2020-99-99", "train.steps='2020-99-99' must be a whole number"),
        ("train.steps=!!int abc", "the tag !!int is not taken"),
        ("train.steps=8 #2", "would end at the #"),
        ("train.steps=#2", "would end at the #"),
        ("train.steps=8\nlog", "would end at"),
        ("data.weights={a: 1} #2", "would end at the #"),
        ("data.weights={a: 010}", "010 is another number"),
        ("train.steps=~", "train.steps=null must be a whole number"),
        ("train.steps=on", "train.steps='on' must be a whole number"),
        ("train.steps=1e3", "train.steps=1e3 must be a whole number"),
        ("train.steps=\u0663", "must be a whole number"),
        ("optimizer.lr=nan", "optimizer.lr=nan must be a number"),
        ("optimizer.lr=1e999", "optimizer.lr=.inf must be a number"),
        ("optimizer.lr=\u0663", "must be a number"),
        ("log.tensorboard=1", "log.tensorboard=1 must be true or false"),
        ("pool.router=None", "pool.router=None must be norm"),
        ("run.dir=~/runs/x", "~ is the home directory only where a shell expands it"),
        ("run.dir=~", "~ is the home directory only"),
        ("optimizer.deepspeed=~", "~ is the home directory only"),
        ("run.dir='a'b'", "quotes have to be around the whole value"),
        ("run.dir='a", "quotes have to be around the whole value"),
        ("run.dir=", "has no value"),
        ("pool.parallel_size=", "has no value"),
        ("run.dir=''", "a path cannot be empty"),
        ("run.dir=a\0b", "a path cannot have control characters"),
        ("run.dir=a\nb", "a path cannot have control characters"),
        ("run.dir=\udcff", "a path cannot have control characters or bytes that are not UTF-8"),
        ("data.path=" + "x" * 256, "a name in a path cannot have more than 255 bytes"),
        ("data.path=" + "\u00e9" * 128, "a name in a path cannot have more than 255 bytes"),
        ("optimizer.deepspeed=" + "x/" * 2000, "a path cannot have more than 3,500 bytes"),
    ],
)
def test_what_would_mean_something_else_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert said in str(caught.value)
    assert len(str(caught.value)) < 500
    assert str(caught.value).replace("\n", "").isprintable()


def test_fields_are_not_changed_by_what_comes_after_them() -> None:
    fields = {"data.weights": {"a": 1.0}, "data.weights.b": 2}
    assert load_config(None, ["data.weights.c=03"], fields=fields).data.weights == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert fields["data.weights"] == {"a": 1.0}


INTEGERS = [name for name, field in fields_of(Config) if int in branches(field.annotation)]
NUMBERS = [name for name, field in fields_of(Config) if float in branches(field.annotation)]


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(INTEGERS), st.integers(1, 10_000), st.integers(0, 3))
def test_a_whole_number_is_its_decimal_text(name: str, number: int, zeros: int) -> None:
    assert value(f"{name}={'0' * zeros}{number}") == number


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(NUMBERS), st.floats(0.1, 0.9))
def test_a_number_is_its_text(name: str, number: float) -> None:
    assert value(f"{name}={number!r}") == number
    assert value(f"{name}={number:e}") == float(f"{number:e}")


PATHS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40).filter(
    lambda text: text[0] not in "~'\""
)


@settings(deadline=None, max_examples=50)
@given(PATHS, st.sampled_from(["", " #2", ": 3", " - "]))
def test_text_is_taken_as_typed_and_kept_in_files(
    tmp_path_factory: pytest.TempPathFactory, path: str, end: str
) -> None:
    config = load_config(None, [f"run.dir={path}{end}"])
    assert config.run.dir == path + end
    file = tmp_path_factory.getbasetemp() / "text.yaml"
    dump_config(config, file)
    assert load_config(file) == config


@pytest.mark.parametrize("number", ["0100", "1:40", "-010", "0b11", "1__0"])
def test_in_files_too_a_number_is_decimal_or_refused(tmp_path: Path, number: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"train:\n  steps: {number}\n")
    with pytest.raises(ConfigError, match=rf"{number} is another number in YAML 1\.1 .* in line 2"):
        load_config(path)
    path.write_text("train: {steps: 1_000, seed: 0}\nlog: {tensorboard: yes}\nrun: {dir: on}\n")
    config = load_config(path)
    assert (config.train.steps, config.log.tensorboard, config.run.dir) == (1000, True, "on")


def test_no_field_is_without_a_rule() -> None:
    for name, field in fields_of(Config):
        if not is_section(field.annotation):
            assert branches(field.annotation), name


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(st.sampled_from(INTEGERS), st.integers(1, 10_000), max_size=8),
    st.dictionaries(st.sampled_from(NUMBERS), st.floats(0.1, 0.9), max_size=8),
    st.dictionaries(st.text(max_size=8) | st.sampled_from(["on", "~", "010", "<<"]), st.floats(1e-9, 1e9), max_size=4),
)
def test_every_configuration_is_read_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, whole: dict[str, int], real: dict[str, float], weights: dict[str, float]
) -> None:
    config = load_config(None, fields={**whole, **real, "data.weights": weights})
    file = tmp_path_factory.getbasetemp() / "written.yaml"
    dump_config(config, file)
    assert load_config(file) == config
