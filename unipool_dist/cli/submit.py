"""``unipool-dist submit``: a run as a SLURM job that requeues itself until the run is finished."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from unipool_dist.base.console import put, say
from unipool_dist.base.printable import printable
from unipool_dist.base.programs import shown
from unipool_dist.cli.option_types import PER_NODE, PER_NODE_OR_NONE, PROCESSES
from unipool_dist.cli.submit_preparation import submit_preparation
from unipool_dist.config.staging import corpus_paths
from unipool_dist.errors import UnipoolError

if TYPE_CHECKING:
    from unipool_dist.jobs.render import Resources
    from unipool_dist.jobs.submission import Prepared, Request

_TIME = re.compile(r"N+|N+:N+(:N+)?|N+-N+(:N+){0,2}|UNLIMITED".replace("N+", "[0-9]{1,9}"))
_AFTER = re.compile(r"J(:J){0,999}".replace("J", r"[0-9]{1,18}(_([0-9]{1,9}|\*))?"))


@click.command(context_settings={"show_default": True})
@click.argument("config_path", metavar="CONFIG", type=click.Path(path_type=Path), required=False)
@click.argument("overrides", nargs=-1, metavar="[SECTION.FIELD=VALUE ...]")
@click.option("--nodes", metavar="N|MIN-MAX", help="Nodes; with a range, as many of these as there are.")
@click.option("--gpus-per-node", type=PER_NODE_OR_NONE, help="GPUs, and processes, on each node; 0: none.")
@click.option("--tasks-per-node", type=PER_NODE, help="Processes on each node, if there are no GPUs.")
@click.option("--time", "limit", metavar="T", help="Time limit of one start of the job, as sbatch takes it: 24:00:00.")
@click.option("--name", help="Name of the job; default: that of CONFIG.")
@click.option("--profile", "profile_path", type=click.Path(path_type=Path), help="What to know of this cluster.")
@click.option("--after", metavar="JOBID[:JOBID...]", help="Start when these jobs have ended with success.")
@click.option("--sweep", "sweeps", multiple=True, metavar="FIELD=V1,V2", help="A job array, one run for each value.")
@click.option("--max-parallel", type=PROCESSES, help="Runs of a sweep at a time.")
@click.option("--doctor", is_flag=True, help="Look at the nodes first; start the run only if they are well.")
@click.option("--no-requeue", is_flag=True, help="Let the run end when it is preempted or fails.")
@click.option("--template", type=click.Path(path_type=Path), help="Batch script instead of slurm/job.sbatch.j2.")
@click.option("--resume", "run_dir", metavar="RUN", type=click.Path(path_type=Path), help="Submit this run once more.")
@click.option("--shards", type=PROCESSES, help="Of `data prepare`: tasks that share the work.  [default: 1]")
@click.option("--dry-run", is_flag=True, help="Print the batch script; write and submit nothing.")
def submit(
    config_path: Path | None,
    overrides: tuple[str, ...],
    nodes: str | None,
    gpus_per_node: int | None,
    tasks_per_node: int | None,
    limit: str | None,
    name: str | None,
    profile_path: Path | None,
    after: str | None,
    sweeps: tuple[str, ...],
    max_parallel: int | None,
    doctor: bool,
    no_requeue: bool,
    template: Path | None,
    run_dir: Path | None,
    shards: int | None,
    dry_run: bool,
) -> None:
    """Submit the run that CONFIG describes, or the preparation of a corpus, to SLURM.

    SECTION.FIELD=VALUE sets a field of CONFIG, as in `unipool-dist train`. --sweep takes several values of one, between
    commas; those in brackets and quotes are part of a value.

    The run directory keeps all that the run is made of: configuration, code, packages, environment, command. The job
    saves before its time is up, is requeued when it is preempted, fails or loses a node, and continues from its newest
    whole checkpoint, with `--nodes 2-4` and parallel.dp=auto on as many nodes as there are. It ends when the run is
    finished, has failed twice at the same step, or has come no further in several starts (slurm/README.md).

    \b
    unipool-dist submit configs/small.yaml parallel.dp=auto --nodes 2 --gpus-per-node 4 --time 24:00:00
    unipool-dist submit --resume runs/small-20260102-030405 --time 48:00:00
    unipool-dist submit --time 4:00:00 --shards 8 -- data prepare data/web --source web=crawl/ --workers 32
    """
    check_time(limit)
    _check_after(after)
    if config_path == Path("data") and overrides[:1] == ("prepare",):
        submit_preparation(click.get_current_context(), overrides[1:])
        return
    if shards is not None:
        raise click.UsageError("--shards is for `-- data prepare OUT ...`: a run has --nodes")
    if run_dir is not None:
        _refuse_what_is_frozen(click.get_current_context())
        _submit_again(run_dir, nodes=nodes, limit=limit, after=after, dry_run=dry_run)
        return
    needed = {
        "CONFIG": config_path,
        "--nodes": nodes,
        "--time": limit,
        "--gpus-per-node (or --tasks-per-node, without GPUs)": tasks_per_node
        if gpus_per_node is None
        else gpus_per_node,
    }
    missing = [option for option, value in needed.items() if value is None]
    if missing:
        raise click.UsageError(f"missing: {', '.join(missing)}")
    assert config_path is not None and nodes is not None and limit is not None
    from unipool_dist.jobs.profile import load_profile
    from unipool_dist.jobs.submission import Request, prepare

    resources = resources_of(name or config_path.stem, nodes, gpus_per_node, tasks_per_node, limit)
    resources = replace(resources, after=after, requeue=not no_requeue)
    request = Request(resources, load_profile(profile_path), doctor, template)
    prepared = prepare(request, config_path, overrides, sweeps, max_parallel=max_parallel)
    check_corpora(path for config in prepared.configs.values() for path in corpus_paths(config))
    _hand_in(request, prepared, array=bool(sweeps), dry_run=dry_run)


def _hand_in(request: Request, prepared: Prepared, *, array: bool, dry_run: bool) -> None:
    """Freeze the run and submit it, or print its script; an unsuccessful submission leaves nothing behind."""
    from unipool_dist.jobs.slurm import NoAnswerError
    from unipool_dist.jobs.submission import discard, script_of, write
    from unipool_dist.jobs.submission import submit as hand_in

    for note in prepared.notes:
        say(f"note: {note}", err=True)
    if dry_run:
        put(script_of(request, prepared))
        return
    write(request, prepared)
    try:
        job_id = hand_in(prepared.folder)
    except NoAnswerError:
        raise
    except UnipoolError:
        discard(prepared)
        raise
    tell_submitted(job_id, prepared.folder.run_dir, array=array)


def _refuse_what_is_frozen(context: click.Context) -> None:
    """Refuse options that change a resumed run: only time and number of nodes may change."""
    free = {"run_dir", "nodes", "limit", "after", "dry_run"}
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    frozen = [
        parameter.opts[0] if isinstance(parameter, click.Option) else str(parameter.metavar)
        for parameter in context.command.params
        if parameter.name in given - free
    ]
    if frozen:
        raise click.UsageError(
            f"--resume RUN submits the run as it was frozen, without {', '.join(frozen)}: it takes --nodes, --time, "
            f"--after and --dry-run; the rest is changed in RUN/job/"
        )


def _check_after(after: str | None) -> None:
    if after is not None and not _AFTER.fullmatch(after):
        raise click.UsageError(
            f"--after {printable(after)}: give the numbers of jobs, separated by colons: 4711:4712, or 4711_3 for one "
            f"task of an array"
        )


def check_time(limit: str | None) -> None:
    """Refuse a time limit that sbatch would refuse only after everything is frozen."""
    if limit is not None and not _TIME.fullmatch(limit):
        raise click.UsageError(f"--time {printable(limit)}: give minutes, HH:MM:SS or D-HH, as sbatch takes it")


def resources_of(name: str, nodes: str, gpus_per_node: int | None, tasks_per_node: int | None, limit: str) -> Resources:
    """Return the resources that the options of a command ask for."""
    from unipool_dist.jobs.render import Resources

    if gpus_per_node and tasks_per_node and tasks_per_node != gpus_per_node:
        raise click.UsageError(f"--tasks-per-node {tasks_per_node}: there is one process per GPU, {gpus_per_node}")
    return Resources(
        name=name,
        nodes=nodes,
        tasks_per_node=tasks_per_node or gpus_per_node or 1,
        gpus_per_node=gpus_per_node or 0,
        time=limit,
    )


def _submit_again(run_dir: Path, *, nodes: str | None, limit: str | None, after: str | None, dry_run: bool) -> None:
    from unipool_dist.jobs.folder import JobFolder
    from unipool_dist.jobs.limits import check_time_limit
    from unipool_dist.jobs.render import on_nodes, overridden, warning_option
    from unipool_dist.jobs.submission import check_idle
    from unipool_dist.jobs.submission import submit as hand_in

    folder = JobFolder(run_dir.resolve())
    job = folder.read()
    warning_s = folder.profile().warning_s
    if limit is not None:
        check_time_limit(limit, warning_s)
    script = folder.files.job_script.read_text(encoding="utf-8")
    options = [f"--time={limit}"] if limit else []
    if limit is not None and "#SBATCH --signal=" not in script:  # it was submitted without a limit
        options += warning_option(limit, warning_s)
    options += [f"--dependency=afterok:{after}"] if after else []
    if nodes:
        script = on_nodes(script, nodes, job.tasks_per_node, folder.profile())
    if dry_run:
        put(overridden(script, options))
        return
    check_idle(folder)
    folder.write_script(overridden(script, ()))  # it does not wait for the same jobs again
    tell_submitted(hand_in(folder, options), folder.run_dir, array=len(job.runs) > 1)


def check_corpora(paths: Iterable[str]) -> None:
    """Open each corpus once.

    Raises:
        DataError: one is missing or damaged.
    """
    from unipool_dist.data.corpus import Corpus

    for path in dict.fromkeys(paths):
        Corpus.open(path, verify="size")


def tell_submitted(job_id: str, run_dir: Path, *, array: bool) -> None:
    """Print where things are, and how to deal with the job."""
    run = shown([run_dir])
    log = f"{job_id}_*.log" if array else f"{job_id}.log"
    say(f"job {job_id} is submitted; the run is in {printable(run_dir)}")
    say(f"  state    unipool-dist status {run}")
    say(f"  log      tail -F {run}/logs/{log}")
    say(f"  stop     scancel --signal=INT {job_id}    (saves first; is not requeued)")
    say(f"  resume   unipool-dist submit --resume {run}")
