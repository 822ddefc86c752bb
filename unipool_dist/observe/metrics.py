"""The files of records in a run directory: RUN/metrics.jsonl and RUN/expert_usage.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np

from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.observe.jsonlines import JsonLinesWriter
from unipool_dist.observe.sink import Numbers, Sink, SinkStart
from unipool_dist.observe.usage import Counts, check_counts

# Relied on by readers of metrics.jsonl; a training record may have more. ``tokens`` counts from the start of the run.
# ``loss``, ``aux_loss`` and ``grad_norm`` are means over the ``window_steps`` steps that end with ``step``, with
# ``loss_max`` and so on; in a file of a version that had no ``window_steps`` they are those of ``step`` alone.
TRAIN_KEYS = ("step", "loss", "aux_loss", "grad_norm", "lr", "tokens", "tokens_per_s")


class MetricsWriter(Sink):
    """The writer of a run's records. They are in their files when a call returns, or as soon as there is room.

    ``resume_from_step=None`` begins a run: records that an earlier run left in ``run_dir`` are replaced. Otherwise the
    records up to and including that step are kept, so that a resumed run's files read as if it had never stopped.
    """

    def __init__(self, run_dir: Path, *, resume_from_step: int | None = None) -> None:
        files = RunDirectory(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        self._metrics = JsonLinesWriter(files.metrics, resume_from_step=resume_from_step)
        self._usage = JsonLinesWriter(files.usage, resume_from_step=resume_from_step)

    @classmethod
    def open(cls, start: SinkStart) -> Self:
        return cls(start.run_dir, resume_from_step=start.resume_from_step)

    def train(self, record: Numbers) -> None:
        """Record the training steps of a window; ``record`` has the keys ``TRAIN_KEYS`` and may have more numbers.

        Raises:
            NonFiniteError: a value is NaN or infinite; nothing is recorded.
        """
        missing = [key for key in TRAIN_KEYS if key not in record]
        assert not missing, f"training record lacks {missing}"
        self._metrics.write(record)

    def validation(self, step: int, losses: Numbers, bits_per_byte: Numbers) -> None:
        """Record one evaluation.

        Raises:
            NonFiniteError: a value is NaN or infinite; nothing is recorded.
        """
        assert losses.keys() == bits_per_byte.keys(), (list(losses), list(bits_per_byte))
        self._metrics.write({"step": step, "validation": dict(losses), "bits_per_byte": dict(bits_per_byte)})

    def checkpoint(self, step: int, record: Numbers) -> None:
        self._metrics.write({"step": step, "checkpoint": dict(record)})

    def usage(self, step: int, counts_LE: Counts, num_pools: int = 1) -> None:
        counts_LE = np.asarray(counts_LE)
        check_counts(counts_LE, num_pools)
        self._usage.write({"step": step, "num_pools": num_pools, "counts": counts_LE})

    def close(self) -> None:
        self._metrics.close()
        self._usage.close()
