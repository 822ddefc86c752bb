"""``unipool-dist doctor``: examines machines, network and file system before a run does."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from unipool_dist.base.console import lasting_text, say
from unipool_dist.base.printable import aligned, printable
from unipool_dist.base.system_errors import explained
from unipool_dist.cli.option_types import MAX_SECONDS, PROCESSES_HERE, Finite
from unipool_dist.comm.environment import Environment, read_environment
from unipool_dist.config import Config, Outline, Plan, load_config, outline
from unipool_dist.errors import UnipoolError
from unipool_dist.resilience.orphans import end_with_launcher
from unipool_dist.resilience.signal_watch import STOP_SIGNALS, release_signals, taken_signals

if TYPE_CHECKING:
    from unipool_dist.doctor.agenda import Settings
    from unipool_dist.doctor.disk_space import CheckpointNeed
    from unipool_dist.doctor.findings import Report


@click.command()
@click.argument("arguments", nargs=-1, metavar="[CONFIG] [SECTION.FIELD=VALUE ...]")
@click.option("--nproc", type=PROCESSES_HERE, help="Start this many processes on this machine.")
@click.option(
    "--timeout",
    "timeout_s",
    type=Finite(min=1, max=MAX_SECONDS),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="For ranks to come together, and for each collective.",
)
@click.option(
    "--time-limit",
    "time_limit_s",
    type=Finite(min=0, max=MAX_SECONDS),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="After this nothing more is measured.",
)
@click.option(
    "--disk-mb",
    type=click.IntRange(min=4, max=1_000_000),
    default=64,
    show_default=True,
    help="What each node writes to measure the disk, in 10^6 bytes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--strict", is_flag=True, help="Exit with status 1 for warnings too.")
@click.option("--status-file", type=click.Path(path_type=Path), hidden=True)
def doctor(
    arguments: tuple[str, ...],
    nproc: int | None,
    timeout_s: float,
    time_limit_s: float,
    disk_mb: int,
    as_json: bool,
    strict: bool,
    status_file: Path | None,
) -> None:
    """Examine what a run is about to use: versions, devices, clocks, run directory, network; name what is slow.

    With CONFIG it measures over the process groups, in the run directory and for the checkpoints of that run; without
    it over one group of all processes, in the current directory.

    Without --nproc this is one process of those that torchrun or SLURM started, or a single process. Rank 0 prints.
    Exit status 0 if nothing has failed, else 1, on all ranks.
    """
    config = read_config(arguments)
    if nproc is not None:
        options = [f"--timeout={timeout_s}", f"--time-limit={time_limit_s}", f"--disk-mb={disk_mb}"]
        options += [name for name, given in (("--json", as_json), ("--strict", strict)) if given]
        _launch([*options, "--", *arguments], nproc)
    environment = read_environment()
    end_with_launcher()
    _end_by_exception(status_file if environment.rank == 0 else None)
    output = lasting_text(os.dup(1), sys.stdout)
    os.dup2(2, 1)  # what libraries print does not go between the report's lines

    def publish(report: Report) -> int:
        lines = [json.dumps(report.document(strict=strict), indent=1)] if as_json else render(report, strict=strict)
        output.write(printable("\n".join(lines), lines=True) + "\n")
        output.flush()
        return 0 if report.ok(strict=strict) else 1

    settings = _settings(config, environment.world_size, timeout_s, time_limit_s, disk_mb)
    status = _take_part(settings, environment, publish, status_file)
    # Not in the usual way, which waits for process groups that may have lost a member.
    os._exit(status)


def _take_part(
    settings: Settings, environment: Environment, publish: Callable[[Report], int], status_file: Path | None
) -> int:
    """Do this rank's part; return the status to exit with."""
    from tqdm import tqdm

    from unipool_dist.doctor.examination import Examination

    shown = environment.rank == 0 and sys.stderr.isatty()
    with tqdm(bar_format="{desc} ({elapsed})", delay=2, miniters=1, leave=False, disable=not shown) as bar:

        def progress(name: str) -> None:
            bar.set_description_str(f"doctor: {name}", refresh=False)
            bar.update()

        def clear_and_publish(report: Report) -> int:
            bar.close()
            return publish(report)

        examination = Examination(settings, environment, clear_and_publish, progress)
        try:
            status = examination.run()
        except (UnipoolError, OSError) as error:
            message = explained(error) if isinstance(error, OSError) else None
            say(f"error (rank {environment.rank}): {message or error}", err=True)
            return 1
        except SystemExit as ended:  # by a signal
            return int(ended.code or 0)
        except Exception:  # the launcher has to get a status, whatever happened
            traceback.print_exc()
            return 1
    _ignore_signals()  # there is a verdict
    if status_file is not None and environment.rank == 0:
        status_file.write_text(str(status))
    # At another status than 0 a launcher ends the ranks that do not end by themselves.
    return status if status_file is None or examination.abandoned else 0


def read_config(arguments: Sequence[str]) -> Config | None:
    """Return the configuration of the command line, CONFIG and overrides or only these; ``None`` without any."""
    if not arguments:
        return None
    # A run of a sweep is in a folder such as `0-train.seed=1`.
    section, equals, _ = arguments[0].partition("=")
    has_path = not equals or section.partition(".")[0] not in Config.model_fields or Path(arguments[0]).is_file()
    return load_config(Path(arguments[0]) if has_path else None, arguments[1:] if has_path else arguments)


def _launch(arguments: Sequence[str], num_processes: int) -> None:
    """Start the ranks and exit with their status, passed in a file: a launcher takes any but 0 for a crash."""
    from unipool_dist.run.launch import launch_local

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "status"
        launch_local(["doctor", f"--status-file={path}", *arguments], num_processes)
        sys.exit(int(path.read_text()))


def _end_by_exception(status_file: Path | None) -> None:
    """Turn signals, from SLURM or a launcher, into an orderly exit that leaves nothing in the run directory.

    The exit is recorded in ``status_file``, as torchrun makes a status of 1 of it.
    """

    def end(number: int, frame: FrameType | None) -> None:
        _ignore_signals()
        if status_file is not None:
            status_file.write_text(str(128 + number))
        raise SystemExit(128 + number)

    for number in taken_signals():
        signal.signal(number, end)
    release_signals()


def _ignore_signals() -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _settings(config: Config | None, world_size: int, timeout_s: float, time_limit_s: float, disk_mb: int) -> Settings:
    from unipool_dist.doctor.agenda import Settings

    known, fault = None, ""
    if config is not None:
        try:
            known = outline(config, world_size)
        except UnipoolError as error:
            fault = str(error)
    return Settings(
        run_dir=Path(config.run.dir if config is not None else "."),
        plan=known,
        config_error=fault,
        need=checkpoint_need(known) if known is not None else None,
        timeout_s=timeout_s,
        time_limit_s=time_limit_s,
        disk_bytes=disk_mb * 1_000_000,
    )


def checkpoint_need(known: Outline) -> CheckpointNeed:
    """Return the size of checkpoints of a run: masters and optimizer states in fp32."""
    from math import lcm

    from unipool_dist.checkpoint.directory import CheckpointDirectory
    from unipool_dist.doctor.disk_space import CheckpointNeed
    from unipool_dist.planning.memory import num_moments
    from unipool_dist.planning.parameters import count_parameters

    plan, note = _with_vocabulary(known)
    numel = sum(count_parameters(plan).stored.values())
    last, settings = plan.train.steps, plan.checkpoint
    interval, keep_last, keep_every = settings.interval, settings.keep_last, settings.keep_every
    steps = 1 + ((last - 1) // interval if interval else 0)
    old = max(0, steps - keep_last)  # multiples of the interval, the first ones
    kept = steps - old + (old * interval // lcm(interval, keep_every) if interval and keep_every else 0)
    # The oldest goes only when the newest is written.
    most = min(kept + 1, steps) if keep_last else steps
    there = len(CheckpointDirectory(Path(plan.run.dir)).steps())
    return CheckpointNeed(4 * (1 + num_moments(plan.optimizer)) * numel, most, there, note)


def _with_vocabulary(known: Outline) -> tuple[Plan, str]:
    """Return the plan, and a note if its vocabulary is not known."""
    from unipool_dist.data.corpus import Corpus

    try:
        return known.with_vocabulary(Corpus.open(known.data.path, verify="size").vocab_size), ""
    except (UnipoolError, OSError):
        if known.model.vocab_size is not None:
            return known.with_vocabulary(), ""
        return known.with_vocabulary(known.model.vocab_divisor), ", vocabulary not counted"


def render(report: Report, *, strict: bool) -> list[str]:
    """Return a line for each check, then what to do about those that are not ok."""
    from unipool_dist.base.units import counted

    rows = [("", "check", "measured", "expected")]
    rows += [(check.status, check.name, _cut(check.measured), check.expected) for check in report.checks]
    lines = [*aligned(rows), ""]
    for check in report.checks:
        if check.advice:
            whole = f"{check.measured}; " if _cut(check.measured) != check.measured else ""
            lines.append(f"{check.status}  {check.name}: {whole}{check.advice}")
    slow = {node["name"]: node["slow"] for node in report.document(strict=strict)["nodes"] if node["slow"]}
    lines += [f"slow node: {name} ({', '.join(checks)})" for name, checks in slow.items()]
    failed, warnings = (sum(check.status == status for check in report.checks) for status in ("fail", "warn"))
    verdict = "ok" if report.ok(strict=strict) else "not ok"
    return [*lines, f"{verdict}: {failed} failed, {counted(warnings, 'warning')}, {report.seconds:.1f} s"]


def _cut(text: str, width: int = 72) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
