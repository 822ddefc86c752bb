"""When callbacks are called, on which ranks, and that several are one."""

from __future__ import annotations

import inspect

from tests.support.callbacks import Named
from tests.support.training import batches_of, sequences, tiny_config
from tests.support.workers import Workers
from unipool_dist.comm.environment import Environment
from unipool_dist.comm.groups import process_groups
from unipool_dist.data.batches import Batch
from unipool_dist.engine.callback import Callback, Callbacks, Stop, stop
from unipool_dist.engine.trainer import Trainer
from unipool_dist.model.assembly import build_model

MOMENTS = [name for name, _ in inspect.getmembers(Callback, inspect.isfunction)]


def test_several_callbacks_are_called_as_one_in_their_order() -> None:
    calls: list[tuple[str, str]] = []

    class Noting(Callback):
        def __init__(self, name: str) -> None:
            for moment in MOMENTS:
                setattr(self, moment, lambda *a, moment=moment, **o: calls.append((name, moment)))

    several = Callbacks([Noting("first")])
    several.add(Noting("second"))
    for moment in MOMENTS:
        parameters = list(inspect.signature(getattr(Callback, moment)).parameters.values())[1:]
        places = [None for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
        names = {each.name: False for each in parameters if each.kind is each.KEYWORD_ONLY}
        getattr(several, moment)(*places, **names)
        assert calls == [("first", moment), ("second", moment)]
        calls.clear()


def test_every_callback_is_asked_whether_to_stop_as_each_may_communicate() -> None:
    asked = []

    class Reason(Callback):
        def __init__(self, reason: str | None) -> None:
            self.reason = None if reason is None else stop(reason)

        def should_stop(self) -> Stop | None:
            asked.append(self.reason)
            return self.reason

    assert Callbacks([Reason(None), Reason("one"), Reason("two")]).should_stop() == stop("one")
    assert asked == [None, stop("one"), stop("two")]


def _moments(environment: Environment) -> list[str]:
    config = tiny_config("train.steps=2", "train.eval_interval=1", world_size=environment.world_size)
    with process_groups(config, environment) as groups:
        seen = Named(name for name in MOMENTS if name not in ("doing", "sequences"))
        model = build_model(config, groups)
        validation = {"five": Batch(*sequences(99, 5))}
        trainer = Trainer(
            config, groups, model, lambda at, i: batches_of(config, groups, at)[i], lambda _: validation, seen
        )
        trainer.run()
        trainer.step.optimizer.close()
    return seen.calls


def test_the_moments_of_a_step_come_in_the_documented_order(workers: Workers) -> None:
    first, second = workers.run(_moments, 2)
    everywhere = ["step_begins", "step_done", "should_stop", "step_ends"]
    assert second == everywhere * 2
    assert first == [*everywhere[:3], "extend_record", "record", "validation", "step_ends"] * 2
