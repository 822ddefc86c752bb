"""Reading a configuration: what is accepted, what is written back, and what the user is told otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from unipool_dist.config import Config, dump_config, load_config, outline
from unipool_dist.errors import ConfigError

OVERRIDES = [
    "model.num_layers=6",
    "pool.balance.alpha=1e-3",
    "parallel.dp=2",
    "data.weights={web: 2, code: 1e-1}",
    "optimizer.deepspeed=ds_configs/zero1.json",
    "train.dtype=bf16",
]


def message_of(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    return str(caught.value)


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_no_file_means_all_defaults() -> None:
    assert load_config(None) == Config()


def test_overrides_win_over_the_file_and_leave_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", {"model": {"num_layers": 4, "hidden_size": 64}, "log": None})
    config = load_config(path, ["model.num_layers=6", "model.num_layers=12"])
    assert (config.model.num_layers, config.model.hidden_size) == (12, 64)
    assert config.log == Config().log


def test_override_values_are_yaml() -> None:
    config = load_config(None, OVERRIDES)
    assert config.pool.balance.alpha == 1e-3  # YAML 1.1 alone would read text
    assert config.data.weights == {"web": 2.0, "code": 0.1}
    assert load_config(None, ["data.weights=null", "parallel.dp=auto"]).parallel.dp == "auto"
    assert load_config(None, ["run.dir=runs/1e-3"]).run.dir == "runs/1e-3"


@pytest.mark.parametrize("overrides", [[], OVERRIDES])
def test_dump_and_load_give_the_same_configuration(tmp_path: Path, overrides: list[str]) -> None:
    config = load_config(None, overrides)
    for number, version in enumerate((config, outline(config, 2).config)):
        dump_config(version, tmp_path / f"{number}.yaml")
        assert load_config(tmp_path / f"{number}.yaml") == version


def test_an_empty_file_means_all_defaults(tmp_path: Path) -> None:
    assert load_config(write(tmp_path / "a.yaml", "")) == Config()


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("model.num_layer=3", "did you mean model.num_layers?"),
        ("pool.balanse.alpha=1", "did you mean pool.balance?"),
        ("train.num_layers=3", "did you mean model.num_layers?"),
        ("pool.alpha=3", "did you mean pool.balance.alpha?"),
        ("modle.num_layers=3", "did you mean model?"),
        ("zzz.qqq=3", "see docs/configuration.md"),
    ],
)
def test_unknown_fields_are_errors_with_a_suggestion(override: str, suggestion: str) -> None:
    assert "no such field; " + suggestion in message_of(override)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("parallel.dp=0", "parallel.dp=0 must be a whole number from 1 to 100,000 or auto"),
        ("parallel.dp=many", "parallel.dp=many must be a whole number from 1 to 100,000 or auto"),
        ("model.vocab_size=a", "model.vocab_size=a must be a whole number from 1 to 100,000,000 or null"),
        ("pool.top_k='8'", "pool.top_k='8' must be a whole number from 1 to 100,000"),
        ("pool.top_k=1.0", "pool.top_k=1.0 must be a whole number from 1 to 100,000"),
        ("model.num_layers=true", "model.num_layers=true must be a whole number from 1 to 10,000"),
        ("model.num_layers=null", "model.num_layers=null must be a whole number from 1 to 10,000"),
        ("optimizer.lr=.inf", "optimizer.lr=.inf must be a number > 0"),
        ("optimizer.lr=fast", "optimizer.lr=fast must be a number > 0"),
        ("optimizer.beta1=1", "optimizer.beta1=1 must be a number >= 0 and < 1"),
        ("pool.router=[1]", "pool.router='[1]' must be norm, softmax, sigmoid, none or module:Class of your own"),
        ("log.tensorboard=1", "log.tensorboard=1 must be true or false"),
        ("pool.balance.loss=3", "pool.balance.loss='3' must be pool, layer, none or module:Class of your own"),
        ("pool.balance=3", "pool.balance=3 must be a section with the fields loss, alpha, window, scores, bias_rate"),
        ("data.weights=3", "data.weights=3 must be a mapping whose values are each a number > 0 and <= 1e+15 or null"),
        ("data.weights={web: 0}", "data.weights.web=0 must be a number > 0 and <= 1e+15"),
        ("data.weights={1: 2}", "data.weights.1: names must be text, in quotes if they look like numbers"),
    ],
)
def test_a_faulty_field_gives_one_line_that_says_what_it_may_be(override: str, line: str) -> None:
    assert message_of(override).splitlines()[1:] == [f"  {line}"]


def test_all_faulty_fields_are_reported_at_once() -> None:
    lines = message_of("parallel.dp=0", "model.num_layer=3", "optimizer.lr=-1").splitlines()
    assert sorted(line.strip().split("=")[0].split(":")[0] for line in lines[1:]) == [
        "model.num_layer",
        "optimizer.lr",
        "parallel.dp",
    ]


def test_long_values_are_cut() -> None:
    assert max(len(line) for line in message_of(f"train.dtype={'x' * 500}").splitlines()) < 120


@pytest.mark.parametrize("override", ["train.steps", "steps=3", "train.=3", ".steps=3", "=3", "train..steps=3"])
def test_an_override_of_another_form_is_an_error_that_shows_the_form(override: str) -> None:
    assert "section.field=value" in message_of(override)


def test_an_override_whose_value_is_no_yaml_is_named() -> None:
    assert "override 'train.steps=[1': the value cannot be read as YAML" in message_of("train.steps=[1")


def test_an_override_below_a_field_that_is_no_section_is_refused() -> None:
    assert "train.steps={x: 1} must be a whole number" in message_of("train.steps.x=1")


def test_an_override_below_a_value_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train is not a section"):
        load_config(write(tmp_path / "a.yaml", {"train": 3}), ["train.steps=4"])


def test_a_missing_file_is_named_with_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration at .*none\.yaml.*configs/"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(("content", "part"), [("a: [1", "cannot be read as YAML"), ("- 1\n", "mapping of sections")])
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, content: str, part: str) -> None:
    path = write(tmp_path / "bad.yaml", content)
    with pytest.raises(ConfigError, match=part) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_directory_is_not_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_a_file_says_what_differs_from_its_base(tmp_path: Path) -> None:
    balance = {"alpha": 0.5, "loss": "layer"}
    write(tmp_path / "a.yaml", {"pool": {"num_experts": 8, "balance": balance}, "data": {"weights": {"x": 1.0}}})
    (tmp_path / "sub").mkdir()
    write(
        tmp_path / "sub" / "b.yaml", {"base": "../a.yaml", "pool": {"balance": {"alpha": 0.25}}, "train": {"steps": 50}}
    )
    path = write(tmp_path / "c.yaml", {"base": "sub/b.yaml", "data": {"weights": {"y": 2.0}}, "pool": None})
    config = load_config(path, ["train.seed=7"])
    assert (config.pool.num_experts, config.pool.balance.alpha, config.pool.balance.loss) == (8, 0.25, "layer")
    assert (config.train.steps, config.train.seed) == (50, 7)
    assert config.data.weights == {"y": 2.0}, "a mapping is one value"


def test_an_unknown_field_of_a_base_is_found(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", {"zzz": {"x": 1}})
    with pytest.raises(ConfigError, match="zzz: no such field"):
        load_config(write(tmp_path / "b.yaml", {"base": "a.yaml", "zzz": {"x": 2}}))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "base: b.yaml"}, r"a\.yaml: base=b\.yaml is not there"),
        ({"a": "base: [b.yaml]"}, r"a\.yaml: base=\[b\.yaml\] must be the path of another configuration"),
        ({"a": "base: a.yaml"}, r"a\.yaml: base=a\.yaml leads back"),
        ({"a": "base: b.yaml", "b": "base: a.yaml"}, r"b\.yaml: base=a\.yaml leads back"),
    ],
)
def test_a_base_that_cannot_be_is_named(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        write(tmp_path / f"{name}.yaml", content)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ('"a\\0b"', "a path cannot have control characters"),
        ('"\\ud800"', "half of a surrogate pair"),
        ("x" * 300, "a name in a path cannot have more than 255 bytes"),
        ("x/" * 4000, "a path cannot have more than 3,500 bytes"),
        ("''", "a path cannot be empty"),
        (".", "cannot be read as YAML"),
        ("/dev/zero", "it is not a regular file"),
        ("loop.yaml", "is not there"),
    ],
)
def test_a_base_that_can_be_no_file_is_one_error(base: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    path = write(tmp_path / "a.yaml", f"base: {base}\n")
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert len(str(caught.value)) < 500


def test_a_chain_of_bases_has_an_end(tmp_path: Path) -> None:
    for number in range(100):
        write(tmp_path / f"{number}.yaml", f"base: {number + 1}.yaml\n")
    write(tmp_path / "100.yaml", "train: {steps: 7}\n")
    assert load_config(tmp_path / "90.yaml").train.steps == 7
    with pytest.raises(ConfigError, match=r"16\.yaml: base=17\.yaml is the 17th file in a row"):
        load_config(tmp_path / "0.yaml")
