"""``python -m benchmarks.checkpoint``: speed of saving and loading against the disk's own, and the stall of training.

Four ranks (two stages, two data-parallel ranks, one pool over all) hold about 1 GB of masters and Adam moments. In each
round, in turn: the disk writes as many bytes from as many processes, and flushes them; a checkpoint is saved with
training waiting; the disk reads those bytes back; the checkpoint is verified and loaded; a checkpoint is saved during
training. Files are dropped from the page cache before they are read.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles

import click
import numpy as np
import torch
import torch.distributed as dist

from benchmarks.traffic import free_ports
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.progress import DataIdentity
from unipool_dist.checkpoint.resume import find_checkpoint, load_checkpoint
from unipool_dist.checkpoint.saver import Saver
from unipool_dist.checkpoint.state import TrainingState
from unipool_dist.comm.environment import Environment
from unipool_dist.comm.groups import ParallelGroups, process_groups
from unipool_dist.config import Plan, load_config, resolve
from unipool_dist.engine.callback import Callback, SaveReport
from unipool_dist.engine.pipeline import StageBatch
from unipool_dist.engine.step import TrainStep
from unipool_dist.model.assembly import build_model

WORLD = 4
BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class Round:
    """Seconds of one round; of all ranks, the slowest."""

    disk_write_s: float
    save_s: float
    disk_read_s: float
    load_s: float
    stall_s: float
    beside_s: float
    num_bytes: int
    step_s: float
    step_beside_save_s: float
    lost_s: float
    """By which training is later than without the save that was written meanwhile, the stall included."""


def config_of(quick: bool) -> Plan:
    """About 1 GB of fp32 masters and Adam moments; 3 MB if ``quick``."""
    hidden, vocab = (64, 512) if quick else (768, 16384)
    overrides = (
        "model.num_layers=4",
        f"model.hidden_size={hidden}",
        f"model.ffn_hidden_size={4 * hidden}",
        f"model.vocab_size={vocab}",
        "model.sequence_length=64",
        "pool.num_experts=8",
        "parallel.pp=2",
        "parallel.dp=2",
        "train.global_batch_size=8",
        "train.micro_batch_size=2",
        "checkpoint.keep_last=0",
        "parallel.timeout_s=300",
    )
    return resolve(load_config(None, overrides), WORLD)


def run_rank(environment: Environment, folder: Path, rounds: int, quick: bool) -> list[Round]:
    """One rank's part; every rank returns the same figures."""
    torch.set_num_threads(1)
    config = config_of(quick)
    with process_groups(config, environment) as groups:
        model = build_model(config, groups)
        step = TrainStep(config, groups, model)
        return _Bench(config, groups, step, TrainingState(groups, model, step.optimizer), folder).run(rounds)


class _Bench(Callback):
    def __init__(
        self, config: Plan, groups: ParallelGroups, step: TrainStep, state: TrainingState, folder: Path
    ) -> None:
        self._config, self._groups, self._step, self._state, self._folder = config, groups, step, state, folder
        self._directory = CheckpointDirectory(folder / "run")
        self._reports: list[SaveReport] = []
        data = DataIdentity(tokenizer_hash=None, content_hash="benchmark", segments=(1,))
        self._saver = Saver(config, groups, state, self._directory, lambda _: data, self)
        tokens = torch.randint(0, config.model.vocab_size, (2, config.model.sequence_length))
        batch = StageBatch(tokens, tokens, torch.ones(tokens.shape))
        self._batches = [batch] * config.num_microbatches
        self._saved = 0
        self._plain = np.empty(0, dtype=np.uint8)

    def save_done(self, report: SaveReport) -> None:
        self._reports.append(report)

    def run(self, rounds: int) -> list[Round]:
        self._train(1)  # makes buffers and the file system's first blocks
        self._save()
        self._plain = np.random.default_rng(0).integers(256, size=self._reports[-1].num_bytes // WORLD, dtype=np.uint8)
        return [self._round() for _ in range(rounds)]

    def _round(self) -> Round:
        disk_write_s = self._timed(self._write_plainly, before=self._delete_files)
        save_s = self._timed(self._save)
        disk_read_s = self._timed(self._read_plainly, before=lambda: _forget(self._plain_file))
        load_s = self._timed(self._load, before=self._forget_checkpoint)
        step_s = self._timed(lambda: self._train(3)) / 3
        self._saved += 1
        begun = time.perf_counter()
        self._saver.save(self._saved)
        steps, started = 0, time.perf_counter()
        while not self._saved_everywhere():
            self._train(1)
            steps += 1
        ended = time.perf_counter()
        beside_s = (ended - started) / max(steps, 1)
        self._saver.wait()
        report = self._reports[-1]
        assert report.error is None, report.error
        figures = torch.tensor([report.stall_s, report.write_s, beside_s, ended - begun - steps * step_s])
        dist.all_reduce(figures, dist.ReduceOp.MAX)
        stall_s, write_s, beside_s, lost_s = figures.tolist()
        return Round(
            disk_write_s, save_s, disk_read_s, load_s, stall_s, write_s, report.num_bytes, step_s, beside_s, lost_s
        )

    def _train(self, steps: int) -> None:
        for number in range(steps):
            self._step.run(number, self._batches)

    def _save(self) -> None:
        self._saved += 1
        self._saver.step_ends(self._saved, closing=True)

    def _saved_everywhere(self) -> bool:
        busy = torch.tensor(int(self._saver.busy))
        dist.all_reduce(busy, dist.ReduceOp.MAX)
        return not int(busy)

    def _load(self) -> None:
        found = find_checkpoint(self._directory, self._groups.storage, from_step=None, verify="hash")
        assert found is not None
        load_checkpoint(found, self._state, self._groups.storage)

    @property
    def _plain_file(self) -> Path:
        return self._folder / f"plain-{self._groups.rank}"

    def _write_plainly(self) -> None:
        """As ``dd conv=fsync`` does, from memory into a new file."""
        with self._plain_file.open("wb", buffering=0) as file:
            for start in range(0, len(self._plain), BLOCK_BYTES):
                file.write(self._plain[start : start + BLOCK_BYTES].data)
            os.fsync(file.fileno())

    def _delete_files(self) -> None:
        """Those of the round before: deleting takes time too, but is neither writing nor saving."""
        self._plain_file.unlink(missing_ok=True)
        if self._groups.rank == 0:
            for step in self._directory.steps():
                self._directory.delete(step)

    def _read_plainly(self) -> None:
        buffer = bytearray(BLOCK_BYTES)
        with self._plain_file.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    def _forget_checkpoint(self) -> None:
        for path in self._directory.folder(self._directory.steps()[-1]).iterdir():
            _forget(path)

    def _timed(self, action: Callable[[], None], before: Callable[[], None] = lambda: None) -> float:
        """Seconds until the last rank is done."""
        before()
        dist.barrier()
        started = time.perf_counter()
        action()
        dist.barrier()
        return time.perf_counter() - started


def _forget(path: Path) -> None:
    """Drop a file that is on disk from the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def measure(folder: Path, rounds: int, quick: bool) -> list[Round]:
    """Run the ranks in processes of their own, in a subfolder of ``folder`` that is removed at the end."""
    place = Path(tempfile.mkdtemp(prefix="bench-checkpoint-", dir=folder))
    (port,) = free_ports(1)
    try:
        with ProcessPoolExecutor(WORLD, mp_context=get_context("spawn")) as processes:
            ranks = [
                processes.submit(run_rank, Environment(rank, WORLD, rank, "127.0.0.1", port), place, rounds, quick)
                for rank in range(WORLD)
            ]
            return ranks[0].result()
    finally:
        shutil.rmtree(place)


def table(rounds: list[Round]) -> list[str]:
    """Lines with medians and quartiles over the rounds."""
    size = rounds[-1].num_bytes / 1e9
    rows: list[tuple[str, list[float], str]] = [
        ("disk writes", [size / r.disk_write_s for r in rounds], "GB/s"),
        ("save, training waiting", [size / r.save_s for r in rounds], "GB/s"),
        ("  over the disk's", [r.disk_write_s / r.save_s for r in rounds], ""),
        ("disk reads", [size / r.disk_read_s for r in rounds], "GB/s"),
        ("verify and load", [size / r.load_s for r in rounds], "GB/s"),
        ("  over the disk's", [r.disk_read_s / r.load_s for r in rounds], ""),
        ("save, training waiting", [r.save_s for r in rounds], "s"),
        ("save during training, stall", [r.stall_s for r in rounds], "s"),
        ("  over a save with training waiting", [r.stall_s / r.save_s for r in rounds], ""),
        ("save during training, until on disk", [r.beside_s for r in rounds], "s"),
        ("training step, no save under way", [r.step_s for r in rounds], "s"),
        ("training step during a save", [r.step_beside_save_s for r in rounds], "s"),
        ("training later by, stall and slower steps", [r.lost_s for r in rounds], "s"),
    ]
    lines = [f"{size:.3f} GB on {WORLD} ranks, {len(rounds)} rounds: median (first .. third quartile)"]
    return lines + [f"{name:42}{_spread(values)} {unit}".rstrip() for name, values, unit in rows]


def _spread(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:8.3f}"
    first, _, third = quantiles(values, n=4, method="inclusive")
    return f"{median(values):8.3f} ({first:.3f} .. {third:.3f})"


@click.command(context_settings={"show_default": True})
@click.option("--rounds", default=7, help="rounds")
@click.option("--folder", default=".", type=click.Path(exists=True, path_type=Path), help="on the disk to be measured")
@click.option("--quick", is_flag=True, help="3 MB, two rounds: shows that it runs, measures nothing of interest")
@click.option("--json", "as_json", is_flag=True, help="print every round's figures as JSON instead of the table")
def main(rounds: int, folder: Path, quick: bool, as_json: bool) -> None:
    """Speed of saving and loading against the disk's own, and how long training waits."""
    figures = measure(folder, 2 if quick else rounds, quick)
    if as_json:
        click.echo(json.dumps([vars(figure) for figure in figures], indent=1))
    else:
        click.echo("\n".join(table(figures)))


if __name__ == "__main__":
    main()
