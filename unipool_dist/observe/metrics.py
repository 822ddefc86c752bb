"""The records of a run: RUN/metrics.jsonl, RUN/expert_usage.jsonl and the TensorBoard files in RUN/tensorboard.

Used on rank 0 only; knows nothing of the trainer, which is given a writer and calls it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.observe.jsonlines import JsonLinesWriter
from unipool_dist.observe.usage import Counts, check_counts

if TYPE_CHECKING:
    from unipool_dist.observe.tensorboard_sink import TensorBoardSink

# Relied on by readers of metrics.jsonl; a training record may have more. ``tokens`` counts from the start of the run.
# ``loss``, ``aux_loss`` and ``grad_norm`` are means over the ``window_steps`` steps that end with ``step``, with
# ``loss_max`` and so on; in a file of a version that had no ``window_steps`` they are those of ``step`` alone.
TRAIN_KEYS = ("step", "loss", "aux_loss", "grad_norm", "lr", "tokens", "tokens_per_s")


class MetricsWriter:
    """The writer of a run's records. They are in their files when a call returns, or as soon as there is room.

    ``resume_from_step=None`` begins a run: records that an earlier run left in ``run_dir`` are replaced. Otherwise the
    records up to and including that step are kept, so that a resumed run's files read as if it had never stopped.
    """

    def __init__(self, run_dir: Path, *, tensorboard: bool, resume_from_step: int | None = None) -> None:
        files = RunDirectory(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        self._metrics = JsonLinesWriter(files.metrics, resume_from_step=resume_from_step)
        self._usage = JsonLinesWriter(files.usage, resume_from_step=resume_from_step)
        self._board: TensorBoardSink | None = None
        if tensorboard:
            # Imported here because it takes over a second, which only rank 0 of a run with TensorBoard should pay.
            from unipool_dist.observe.tensorboard_sink import TensorBoardSink

            self._board = TensorBoardSink(files.tensorboard, resume_from_step=resume_from_step)

    def train(self, record: Mapping[str, float | int]) -> None:
        """Record the training steps of a window; ``record`` has the keys ``TRAIN_KEYS`` and may have more numbers.

        Raises:
            NonFiniteError: a value is NaN or infinite; nothing is recorded.
        """
        missing = [key for key in TRAIN_KEYS if key not in record]
        assert not missing, f"training record lacks {missing}"
        self._metrics.write(record)
        if self._board is not None:
            step = int(record["step"])
            self._board.scalars(step, "train", {key: value for key, value in record.items() if key != "step"})

    def validation(self, step: int, losses: Mapping[str, float], bits_per_byte: Mapping[str, float]) -> None:
        """Record one evaluation: loss (nats per token) and bits per byte of every domain.

        Raises:
            NonFiniteError: a value is NaN or infinite; nothing is recorded.
        """
        assert losses.keys() == bits_per_byte.keys(), (list(losses), list(bits_per_byte))
        self._metrics.write({"step": step, "validation": dict(losses), "bits_per_byte": dict(bits_per_byte)})
        if self._board is not None:
            self._board.scalars(step, "validation/loss", losses)
            self._board.scalars(step, "validation/bits_per_byte", bits_per_byte)

    def checkpoint(self, step: int, record: Mapping[str, float | int]) -> None:
        """Record that the state of ``step`` is saved: seconds that training waited, seconds of writing, bytes.

        Later steps may have been recorded already.
        """
        self._metrics.write({"step": step, "checkpoint": dict(record)})
        if self._board is not None:
            self._board.scalars(step, "checkpoint", record)

    def usage(self, step: int, counts_LE: Counts, num_pools: int = 1) -> None:
        """Record the assignments of the window that ends with ``step``; see :mod:`unipool_dist.observe.usage`."""
        counts_LE = np.asarray(counts_LE)
        check_counts(counts_LE, num_pools)
        self._usage.write({"step": step, "num_pools": num_pools, "counts": counts_LE})
        if self._board is not None:
            self._board.usage(step, counts_LE, num_pools)

    def close(self) -> None:
        """Flush and close all files; closing twice is harmless."""
        self._metrics.close()
        self._usage.close()
        if self._board is not None:
            self._board.close()
