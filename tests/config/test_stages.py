"""``stages``: what changes at which step, what is refused, and what a run that a resume changed says of its past."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unipool_dist.config import Config, config_text, is_written_config, load_config, load_written, outline
from unipool_dist.config.describe import describe_change
from unipool_dist.config.effects import settings_without_effect
from unipool_dist.config.roles import flat, role_of, settings_of
from unipool_dist.config.run_stages import RunStages
from unipool_dist.config.staging import (
    DECIDE_ORDER,
    STAGE_FIELDS,
    config_at,
    continued,
    corpus_paths,
    stage_configs,
    with_corpora_at,
)
from unipool_dist.errors import ConfigError, TopologyError

FILE = """\
model: {vocab_size: 512, sequence_length: 32}
train: {steps: 40, global_batch_size: 8, micro_batch_size: 2}
data: {path: web}
optimizer: {lr: 0.01}
stages:
  - {from_step: 11, train.global_batch_size: 16}
  - {from_step: 21, data.weights: {code: 2}, data.path: code, optimizer.lr: 5e-3}
  - from_step: 31
    model.sequence_length: 64
    train.micro_batch_size: 1
    data.weights: null
"""
STEPS_OF = {
    1: (8, 2, 32, "web", None, 0.01),
    11: (16, 2, 32, "web", None, 0.01),
    21: (16, 2, 32, "code", {"code": 2.0}, 0.005),
    31: (16, 1, 64, "code", None, 0.005),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "run.yaml").write_text(FILE)
    return tmp_path / "run.yaml"


def in_effect(config: Config) -> tuple[Any, ...]:
    train, data = config.train, config.data
    sizes = (train.global_batch_size, train.micro_batch_size, config.model.sequence_length)
    return (*sizes, data.path, data.weights, config.optimizer.lr)


def test_a_stage_changes_what_it_names_and_keeps_the_rest(path: Path) -> None:
    config = load_config(path)
    assert [first for first, _ in stage_configs(config)] == list(STEPS_OF)
    for step in range(1, 41):
        first = max(begun for begun in STEPS_OF if begun <= step)
        assert in_effect(config_at(config, step)) == STEPS_OF[first], step
        assert config_at(config, step).stages == []


def test_samples_and_tokens_follow_from_the_stages(path: Path) -> None:
    config = load_config(path)
    stages, samples, tokens = RunStages.of(config), 0, 0
    for step in range(1, 45):
        assert stages.of_sample(samples) == stages.at(step)
        batch, _, length, *_ = in_effect(config_at(config, step))
        samples, tokens = samples + batch, tokens + batch * length
        assert (stages.samples(step), stages.tokens(step)) == (samples, tokens)
    assert (stages.samples(0), stages.tokens(0)) == (0, 0)


def test_the_plan_of_a_step_is_that_of_its_stage(path: Path) -> None:
    plan = outline(load_config(path), 2)
    assert [plan.at(step).num_microbatches for step in (1, 11, 31)] == [2, 4, 8]
    assert plan.at(31).tokens_per_step == 16 * 64 and plan.at(40).model.sequence_length == 64
    assert plan.tokens_per_step == 8 * 32, "of the stage that is trained next"
    assert outline(load_config(path), 2, from_step=31).tokens_per_step == 16 * 64
    assert plan.with_longest_sequences().model.sequence_length == 64
    assert plan.at(31).stages == plan.stages
    said = "data.path web -> code, data.weights None -> {'code': 2.0}, optimizer.lr 0.01 -> 0.005"
    assert describe_change(plan, 21) == said and describe_change(plan, 12) == "as before"


def test_it_is_written_out_and_read_back(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    written = tmp_path / "written.yaml"
    written.write_text(config_text(config))
    assert is_written_config(written)
    assert load_written(written) == load_config(written) == config
    assert config.stages[1].fields["optimizer.lr"] == 0.005, "1e-3 of YAML 1.1 is a number here too"
    given_ = load_config(path, ["stages=[{from_step: 5, train.global_batch_size: 32}]"])
    assert [change.model_dump() for change in given_.stages] == [{"from_step": 5, "train.global_batch_size": 32}]
    assert settings_without_effect(config) == []


@pytest.mark.parametrize(
    ("stages", "named"),
    [
        ("[{from_step: 1, optimizer.lr: 0.1}]", "from_step=1 must be 2 or more"),
        ("[{from_step: 9.5, optimizer.lr: 0.1}]", "each item a mapping with from_step"),
        ("[{optimizer.lr: 0.1}]", "stages"),
        ("[{from_step: 9, optimizer.lr: 0.1}, {from_step: 9, optimizer.lr: 0.2}]", "from_step=9 follows from_step=9"),
        ("[{from_step: 9}]", "from_step=9: nothing cannot change"),
        ("[{from_step: 9, model.hidden_size: 64}]", "from_step=9: model.hidden_size cannot change between stages"),
        ("[{from_step: 9, train.batch: 64}]", "train.global_batch_size"),
        ("[{from_step: 9, train: {global_batch_size: 64}}]", "train cannot change between stages"),
        ("[{from_step: 9, train.global_batch_size: 0}]", r"from_step=9 .*\n  train.global_batch_size=0 must be"),
        ("[{from_step: 9, data.weights: {code: -1}}]", r"from_step=9 .*\n  data.weights.code=-1 must be"),
        ("{from_step: 9}", "stages"),
    ],
)
def test_what_cannot_be_a_stage_is_refused_by_its_step_and_field(stages: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_config(None, [f"stages={stages}"])


@pytest.mark.parametrize(
    ("fields", "world_size", "error"),
    [
        ("train.global_batch_size: 12", 8, ConfigError),
        ("train.micro_batch_size: 5", 1, ConfigError),
        ("optimizer.min_lr: 0.5", 1, ConfigError),
        ("model.sequence_length: 33", 2, TopologyError),
    ],
)
def test_every_stage_has_to_fit_the_layout(fields: str, world_size: int, error: type[Exception]) -> None:
    layout = ["parallel.tp=2", "parallel.dp=auto"] if error is TopologyError else ["train.micro_batch_size=1"]
    config = load_config(None, [*layout, "stages=[{from_step: 9, " + fields + "}]"])
    with pytest.raises(error, match=r"^the stage from step 9: "):
        outline(config, world_size)
    back = "{from_step: 20, train.global_batch_size: 16, train.micro_batch_size: 1, optimizer.min_lr: 0, "
    back += "model.sequence_length: 64}"
    over = load_config(None, [*layout, "stages=[{from_step: 9, " + fields + "}, " + back + "]"])
    assert outline(over, world_size, from_step=20).stages.samples(8) == 8 * 16, "a stage that is over need not fit"


def test_an_override_that_a_stage_would_hide_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.global_batch_size was set, but the stage from step 11 changes it"):
        load_config(path, ["train.global_batch_size=32"])
    assert load_config(path, ["train.global_batch_size=32", "stages=[]"]).train.global_batch_size == 32
    assert load_config(path, ["train.steps=50"]).train.steps == 50


def test_corpora_of_all_stages_are_known(path: Path) -> None:
    config = load_config(path)
    assert corpus_paths(config) == ["web", "code"]
    assert corpus_paths(with_corpora_at(config, lambda path: f"/data/{path}")) == ["/data/web", "/data/code"]


def test_the_fields_that_stages_change_have_the_mark_and_a_role_that_says_whether_a_resume_may() -> None:
    assert DECIDE_ORDER == ("model.sequence_length", "data.weights", "train.global_batch_size")
    roles = {name: role_of(settings_of(Config)[name]) for name in STAGE_FIELDS}
    assert {name for name, role in roles.items() if role.is_refused_on_resume} == set(DECIDE_ORDER)


# Continuing


def test_a_run_that_nothing_changes_continues_with_its_configuration(path: Path) -> None:
    config = load_config(path)
    for step in range(41):
        assert continued(config, config, step, other_text=False) == config
    plain = load_config(None)
    assert continued(plain, plain, 7, other_text=False) == plain


def test_a_change_on_a_resume_is_a_stage_of_its_own(path: Path) -> None:
    saved = load_config(path)
    now = load_config(path, ["stages=[]", "train.global_batch_size=64", "data.path=code", "train.steps=80"])
    config = continued(saved, now, 25, other_text=False)
    assert in_effect(config_at(config, 26)) == (64, 2, 32, "code", None, 0.01) and config.train.steps == 80
    assert [change.from_step for change in config.stages] == [11, 21, 26]
    assert RunStages.of(config).samples(30) == 10 * 8 + 10 * 16 + 5 * 16 + 5 * 64
    assert continued(config, now, 30, other_text=False) == config, "and stays when it is resumed again"
    assert continued(saved, now, 5, other_text=False).stages[0].from_step == 6


def test_a_corpus_that_has_moved_is_no_change_and_another_text_is() -> None:
    saved, now = (load_config(None, [f"data.path={path}"]) for path in ("old", "new"))
    assert continued(saved, now, 10, other_text=False) == now
    config = continued(saved, now, 10, other_text=True)
    assert [config_at(config, step).data.path for step in (10, 11)] == ["old", "new"]


values = {
    "train.global_batch_size": st.sampled_from([8, 16, 32]),
    "model.sequence_length": st.sampled_from([32, 64]),
    "data.weights": st.sampled_from([None, {"a": 1.0}]),
    "data.path": st.sampled_from(["one", "two"]),
    "optimizer.lr": st.sampled_from([0.01, 0.02]),
}


@st.composite
def staged(draw: st.DrawFn) -> Config:
    base = {name: draw(value) for name, value in values.items()}
    steps = sorted(draw(st.sets(st.integers(2, 20), max_size=4)))
    names = st.lists(st.sampled_from(list(values)), min_size=1, unique=True)
    stages = [{"from_step": step, **{name: draw(values[name]) for name in draw(names)}} for step in steps]
    return load_config(None, fields={**base, "stages": stages})


@settings(deadline=None, max_examples=40)
@given(staged(), staged(), st.integers(1, 20), st.booleans())
def test_the_past_stays_and_the_future_is_as_asked(saved: Config, now: Config, step: int, other: bool) -> None:
    config = continued(saved, now, step, other_text=other)
    kept = {*DECIDE_ORDER, *(["data.path"] if other else [])}
    for each in {1, step, step + 1, 24, *(change.from_step for change in (*saved.stages, *now.stages))}:
        asked, got = flat(config_at(saved if each <= step else now, each)), flat(config_at(config, each))
        assert all(got[name] == asked[name] for name in (kept if each <= step else STAGE_FIELDS)), each
    again = continued(config, now, step, other_text=False)
    assert RunStages.of(again).samples(24) == RunStages.of(config).samples(24)
