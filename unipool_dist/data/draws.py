"""How the samples of a run follow from its stages: which are drawn together, and as which segments.

Stages that draw in one way, from one corpus with one blend and length, draw together: a batch size may change in the
middle of an order. All else begins a segment. What a run has begun to draw is recorded in its checkpoints, as numbers
of samples, and stays as it is; only samples that nobody has seen are drawn in another way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from unipool_dist.config.plan import Outline
from unipool_dist.config.run_stages import RunStage
from unipool_dist.data.corpora import Corpora
from unipool_dist.data.segments import Segment, extended


@dataclass(frozen=True)
class Draw:
    """Consecutive samples that are drawn in one way, and the first stage that has them."""

    stage: RunStage
    num_samples: int


def draws(plan: Outline) -> list[Draw]:
    """Return what the stages of a run draw, in order; stages that begin after the last step draw nothing."""
    found: list[Draw] = []
    stages, steps = plan.stages, plan.train.steps
    ends = [min(stage.first_step - 1, steps) for stage in stages.each[1:]] + [steps]
    for stage, end in zip(stages.each, ends, strict=True):
        count = stages.samples(end) - stages.samples(min(stage.first_step - 1, steps))
        if found and found[-1].stage.draws_like(stage):
            found[-1] = Draw(found[-1].stage, found[-1].num_samples + count)
        elif count:
            found.append(Draw(stage, count))
    return found


def drawn(segments: tuple[int, ...], plan: Outline, consumed_samples: int) -> tuple[int, ...]:
    """Return the sample counts of all segments of a run that has begun to draw ``segments``.

    They hold at least what is needed, and the samples not yet consumed are divided where draws begin. If the present
    segments are not, they end with the last sample consumed: the rest of their order is not used.
    """
    ends = list(accumulate(draw.num_samples for draw in draws(plan)))
    total, borders = sum(segments), set(accumulate(segments))
    if any(consumed_samples <= end < total and end not in borders for end in ends[:-1]):
        segments = _cut(segments, consumed_samples)
    for begin, end in pairwise([0, *ends]):
        held = sum(segments)
        if held <= begin:
            segments = (*segments, end - begin)
        elif held < end:
            segments = extended(segments, end, plan.data.order)
    return segments


def segments_of(counts: Sequence[int], corpora: Corpora) -> list[Segment]:
    """Return the segments of so many samples each.

    Those of stages whose corpus is not open are past, and only hold the place of their samples.
    """
    segments = []
    for end, count in zip(accumulate(counts), counts, strict=True):
        stage = corpora.stages.of_sample(end - count)
        corpus = corpora.by_path.get(stage.data.path)
        weights = stage.data.weights
        # A past segment in computed order says how far its corpus has been read; of another corpus it must not.
        has_read = corpus is not None and all(domain in corpus.domains for domain in weights or ())
        order = stage.data.order if has_read else "indexed"
        segments.append(Segment(corpus or corpora.any, count, stage.sequence_length, weights, order))
    return segments


def _cut(segments: Sequence[int], total: int) -> tuple[int, ...]:
    """Return the segments up to ``total`` samples."""
    kept = [min(count, total - (end - count)) for end, count in zip(accumulate(segments), segments, strict=True)]
    return tuple(count for count in kept if count > 0)
