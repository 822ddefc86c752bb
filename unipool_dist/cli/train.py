"""``unipool-dist train``: checks what can be checked at once, then trains, here or in processes of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from unipool_dist.base.user_code import trust
from unipool_dist.checkpoint.compatibility import ALLOWED
from unipool_dist.cli.option_types import PROCESSES_HERE, STEP
from unipool_dist.comm.environment import signalled_twice
from unipool_dist.config import Config, load_config, named_code, outline
from unipool_dist.resilience.orphans import end_with_launcher
from unipool_dist.resilience.signals import StopSignals
from unipool_dist.run.start import IF_ANY, MUST, Start


class _Train(click.Command):
    """A command whose ``--resume`` takes a value or none: click would take the next argument for its value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = args.index("--") if "--" in args else len(args)
        given = [f"{arg}={IF_ANY}" if arg == "--resume" else arg for arg in args[:options]]
        return super().parse_args(ctx, [*given, *args[options:]])


@click.command(cls=_Train)
@click.argument("config_path", metavar="CONFIG", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[SECTION.FIELD=VALUE ...]")
@click.option("--nproc", type=PROCESSES_HERE, help="Start this many processes on this machine.")
@click.option(
    "--resume",
    type=click.Choice([IF_ANY, MUST]),
    metavar=f"[={MUST}]",
    help=f"Resume from the newest whole checkpoint; begin if there is none yet, or with ={MUST} refuse to.",
)
@click.option("--from", "from_step", type=STEP, metavar="STEP", help="Resume from this checkpoint.")
@click.option(
    "--allow",
    multiple=True,
    type=click.Choice(ALLOWED),
    metavar="FIELD",
    help="Resume although CONFIG has another value of FIELD than the checkpoint: the run has it from the next step on. "
    f"One of {', '.join(ALLOWED)}.",
)
@click.option("--overwrite", is_flag=True, help="Replace the run that run.dir already holds, checkpoints included.")
def train(
    config_path: Path,
    overrides: tuple[str, ...],
    nproc: int | None,
    resume: str | None,
    from_step: int | None,
    allow: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Train the model that CONFIG describes.

    SECTION.FIELD=VALUE sets a field of CONFIG: text as it is typed, numbers in decimal, lists and mappings as YAML.

    Without --nproc this is one process of those that torchrun or SLURM started, or a run of a single process.

    SIGTERM, SIGINT, SIGUSR1 or SIGHUP on any process saves the state after the step under way and ends the run with
    exit status 75; the same command with --resume continues, on any layout. A second signal ends it at once. Under
    nohup SIGHUP does nothing.
    """
    start = Start(
        overwrite=overwrite,
        resume=resume is not None or from_step is not None,
        must_resume=resume == MUST and from_step is None,  # which asks for more
        from_step=from_step,
        allow=allow,
    )
    if allow and not start.resume:
        raise click.UsageError("--allow is about a run that is resumed; give --resume or --from with it")
    if start.resume and overwrite:
        raise click.UsageError("--overwrite deletes the checkpoints that --resume and --from need; give one of them")
    config = load_config(config_path, overrides)
    trust(named_code(config))
    # Else torch tells of a lost peer in twenty lines of C++ frames, before the line that says what happened.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if nproc is None:
        end_with_launcher()
        same_request_s = 1.0 if signalled_twice() else 0.2
        with StopSignals(same_request_s=same_request_s) as signals:  # already now: what follows takes seconds to import
            from unipool_dist.run.worker import run_worker

            run_worker(config, start, signals)
        return
    check_before_start(config, nproc, start)
    from unipool_dist.run.launch import launch_local

    launch_local(["train", *_flags(start), "--", str(config_path), *overrides], nproc)


def _flags(start: Start) -> Sequence[str]:
    """Return the options that ask for ``start``."""
    allowed = [f"--allow={name}" for name in start.allow]
    if start.from_step is not None:
        return [f"--from={start.from_step}", *allowed]
    if start.resume:
        return [f"--resume={MUST}" if start.must_resume else "--resume", *allowed]
    return ["--overwrite"] if start.overwrite else []


def check_before_start(config: Config, world_size: int, start: Start) -> None:
    """Find every mistake that can be found before processes are started.

    Raises:
        UnipoolError: the layout is impossible, the corpus missing or damaged, or the run directory taken.
    """
    from unipool_dist.data.corpora import Corpora
    from unipool_dist.run.beginning import check_run_dir, next_step
    from unipool_dist.run.fitting import check_fits_here

    first_step = next_step(Path(config.run.dir), start)
    known = outline(config, world_size, from_step=first_step)
    check_run_dir(Path(config.run.dir), overwrite=start.overwrite, resume=start.resume, must_resume=start.must_resume)
    corpora = Corpora.open(known, from_step=first_step)
    check_fits_here(known.with_vocabulary(corpora.any.vocab_size), corpora)
