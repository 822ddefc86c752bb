"""Which samples of a run with stages are drawn together, and that what has been seen stays."""

from __future__ import annotations

import shutil
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unipool_dist.config import load_config, outline
from unipool_dist.config.plan import Outline
from unipool_dist.data import Corpus, SegmentedDataset, extended, training_data
from unipool_dist.data.corpora import Corpora
from unipool_dist.data.draws import drawn, draws, segments_of
from unipool_dist.errors import DataError


def plan_of(stages: str, steps: int = 40, *overrides: str) -> Outline:
    fields = ["model.sequence_length=32", "train.global_batch_size=8", f"train.steps={steps}", f"stages={stages}"]
    return outline(load_config(None, [*fields, *overrides]), 1)


RAMP = "{from_step: 11, train.global_batch_size: 16}"
BLEND = "{from_step: 21, data.weights: {alpha: 1.0}}"
LONG = "{from_step: 31, model.sequence_length: 64, optimizer.lr: 0.0005}"
ALL = f"[{RAMP}, {BLEND}, {LONG}]"


def test_a_batch_size_changes_within_an_order_and_all_else_begins_one() -> None:
    found = draws(plan_of(ALL))
    assert [(draw.stage.first_step, draw.num_samples) for draw in found] == [(1, 240), (21, 160), (31, 160)]
    assert drawn((), plan_of(ALL), 0) == (240, 160, 160)
    assert drawn((), plan_of("[]"), 0) == extended((), 320) == (320,)
    assert drawn((), plan_of(ALL, 20), 0) == (240,), "a stage after the last step draws nothing"


@pytest.mark.parametrize("step", range(41))
def test_a_resume_at_any_step_draws_what_the_whole_run_drew(step: int) -> None:
    plan = plan_of(ALL)
    assert drawn((240, 160, 160), plan, plan.stages.samples(step)) == (240, 160, 160)


def test_a_longer_run_draws_the_rest_separately() -> None:
    assert drawn((240, 160, 160), plan_of(ALL, 50), 300) == (240, 160, 160, 160)
    assert drawn((240, 160, 160), plan_of(ALL, 35), 300) == (240, 160, 160)
    assert drawn((240, 80), plan_of(ALL), 300) == (240, 80, 80, 160)


def test_what_is_drawn_otherwise_from_the_next_step_on_ends_the_segment_there() -> None:
    changed = plan_of("[{from_step: 16, data.weights: {alpha: 1.0}}]")
    assert drawn((320,), changed, 120) == (120, 200)
    assert drawn((120, 200), changed, 160) == (120, 200), "and a later resume keeps it"
    assert drawn((320,), plan_of("[{from_step: 16, train.global_batch_size: 16}]"), 120) == (320, 200)


@given(st.lists(st.integers(1, 400), max_size=4), st.integers(0, 40), st.sampled_from(["[]", ALL, f"[{LONG}]"]))
def test_consumed_samples_stay_and_draws_begin_with_segments(held: list[int], step: int, stages: str) -> None:
    plan = plan_of(stages)
    consumed = min(plan.stages.samples(step), sum(held))
    before, after = tuple(held), drawn(tuple(held), plan, consumed)
    borders = set(accumulate(after))
    ends = list(accumulate(draw.num_samples for draw in draws(plan)))
    assert sum(after) >= ends[-1] and all(count > 0 for count in after)
    assert all(end in borders for end in ends[:-1] if end >= consumed)
    assert {end for end in accumulate(before) if end <= consumed} <= borders
    assert drawn(after, plan, consumed) == after
    assert after == before or sum(after) >= sum(before) or consumed in borders | {0}


def test_segments_have_length_blend_and_corpus_of_their_stage(corpus: Corpus) -> None:
    plan = plan_of(ALL, 40, f"data.path={corpus.path}")
    corpora = Corpora.open(plan)
    counts = drawn((), plan, 0)
    found = segments_of(counts, corpora)
    assert [(segment.num_samples, segment.sequence_length, segment.weights) for segment in found] == [
        (240, 32, None),
        (160, 32, {"alpha": 1.0}),
        (160, 64, {"alpha": 1.0}),
    ]
    assert {segment.corpus.content_hash for segment in found} == {corpus.content_hash}


@pytest.mark.parametrize("order", ["indexed", "computed"])
def test_what_is_drawn_after_a_resume_is_what_the_whole_run_drew(corpus: Corpus, tmp_path: Path, order: str) -> None:
    """Also where the corpus of earlier stages is not open any more."""
    copy = tmp_path / "copy"
    shutil.copytree(corpus.path, copy)
    last = f"{{from_step: 31, data.path: {copy}, data.weights: null}}"
    plan = plan_of(f"[{RAMP}, {BLEND}, {last}]", 40, f"data.path={corpus.path}", f"data.order={order}")
    counts = drawn((), plan, 0)

    def opened(step: int) -> SegmentedDataset:
        segments = segments_of(counts, Corpora.open(plan, from_step=step + 1))
        return training_data(segments, seed=5, cache_dir=tmp_path / "cache", consumed_samples=plan.stages.samples(step))

    whole = opened(0)
    for step in (5, 20, 25, 30, 36):
        rest, first = opened(step), plan.stages.samples(step)
        for sample in (first, (first + len(whole)) // 2, len(whole) - 1):
            assert torch.equal(rest[sample]["tokens"], whole[sample]["tokens"]), (step, sample)


def test_corpora_are_opened_from_a_step_on_and_refused_by_their_stage(corpus: Corpus, tmp_path: Path) -> None:
    gone = plan_of(f"[{{from_step: 11, data.path: {corpus.path}}}]", 40, f"data.path={tmp_path / 'gone'}")
    with pytest.raises(DataError, match="gone"):
        Corpora.open(gone)
    assert Corpora.open(gone, from_step=11).at(40).path == corpus.path
    assert segments_of((80, 240), Corpora.open(gone, from_step=15))[0].num_samples == 80, "only counted"
    for fields in (f"data.path: {tmp_path / 'gone'}", "data.weights: {nobody: 1.0}"):
        later = plan_of(f"[{{from_step: 11, {fields}}}]", 40, f"data.path={corpus.path}")
        with pytest.raises(DataError, match=r"^the stage from step 11: .*(gone|nobody)"):
            Corpora.open(later)
    beyond = plan_of(f"[{{from_step: 41, data.path: {tmp_path / 'gone'}}}]", 40, f"data.path={corpus.path}")
    assert Corpora.open(beyond).at(40).path == corpus.path
