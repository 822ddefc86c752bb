"""A sink: where the numbers of a run go. Built-in ones and a user's own are named in ``log.sinks``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from unipool_dist.base.registry import Registry
from unipool_dist.config import Config
from unipool_dist.observe.usage import Counts, summarize

Numbers = Mapping[str, float | int]


@dataclass(frozen=True)
class SinkStart:
    """What a sink is opened with."""

    run_dir: Path
    config: Config
    resume_from_step: int | None
    """``None``: the run begins; what an earlier one in ``run_dir`` recorded is replaced. Else records after this step
    are replaced."""


class Sink:
    """Takes the numbers of a run, on rank 0. Methods do nothing unless overridden."""

    @classmethod
    def open(cls, start: SinkStart) -> Self:
        """Make the sink of a run."""
        return cls()

    def train(self, record: Numbers) -> None:
        """Take a training record (docs/architecture.md lists its numbers); ``step`` is one of them."""

    def validation(self, step: int, losses: Numbers, bits_per_byte: Numbers) -> None:
        """Take one evaluation: loss (nats per token) and bits per byte of every domain."""

    def checkpoint(self, step: int, record: Numbers) -> None:
        """Take the seconds and bytes of the save of ``step``; steps after it may have been recorded."""

    def usage(self, step: int, counts_LE: Counts, num_pools: int) -> None:
        """Take the assignments of the record that ends with ``step``; see :mod:`unipool_dist.observe.usage`."""

    def close(self) -> None:
        """Write out everything; may be called twice."""


class ScalarSink(Sink):
    """A sink that takes curves: ``train/loss``, ``validation/loss/DOMAIN``, ``checkpoint/write_s``, ..."""

    @abstractmethod
    def scalars(self, step: int, values: Numbers) -> None:
        """Take one point of each curve in ``values``."""

    def train(self, record: Numbers) -> None:
        step = int(record["step"])
        self.scalars(step, _under("train", {name: value for name, value in record.items() if name != "step"}))

    def validation(self, step: int, losses: Numbers, bits_per_byte: Numbers) -> None:
        values = _under("validation/loss", losses) | _under("validation/bits_per_byte", bits_per_byte)
        self.scalars(step, values)

    def checkpoint(self, step: int, record: Numbers) -> None:
        self.scalars(step, _under("checkpoint", record))

    def usage(self, step: int, counts_LE: Counts, num_pools: int) -> None:
        summary = summarize(counts_LE, num_pools)
        numbers = {
            "dead_share": summary.dead_share,
            "effective_experts_mean": float(summary.effective_experts_L.mean()),
            "busiest_over_mean": summary.busiest_over_mean,
            "ownership": summary.ownership,
        }
        self.scalars(step, _under("experts", numbers))


SINKS: Registry[type[Sink]] = Registry(
    "log.sinks",
    {
        "tensorboard": "unipool_dist.observe.tensorboard_sink:TensorBoardSink",
        "wandb": "unipool_dist.observe.trackers:WandbSink",
        "mlflow": "unipool_dist.observe.trackers:MlflowSink",
    },
    base=Sink,
)


def _under(prefix: str, values: Numbers) -> dict[str, float | int]:
    return {f"{prefix}/{name}": value for name, value in values.items()}
