"""Arguments of the commands that use a run's model, and opening the run on every rank."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
from click.core import ParameterSource

from unipool_dist.base.console import say
from unipool_dist.base.user_code import trust
from unipool_dist.cli.option_types import PROCESSES_HERE, STEP
from unipool_dist.comm.environment import read_environment
from unipool_dist.errors import UnipoolError
from unipool_dist.resilience.orphans import end_with_launcher

if TYPE_CHECKING:
    from unipool_dist.config import Plan
    from unipool_dist.data import StoredSequences
    from unipool_dist.inference.opened import OpenedRun

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Use:
    """The model to use, and the number of processes."""

    run: Path
    overrides: tuple[str, ...]
    step: int | None
    trust: tuple[str, ...]
    """Names ``module:Class`` of the run's configuration whose code may be imported."""
    nproc: int | None
    """``None``: this process is one of those that a launcher started, or the only one."""


def use_options(command: F) -> F:
    """Add RUN, overrides, ``--step`` and ``--nproc``; the command gets them as keyword arguments of :class:`Use`."""
    for decorate in (
        click.option("--nproc", type=PROCESSES_HERE, help="Start this many processes on this machine."),
        click.option("--trust", multiple=True, metavar="MODULE:CLASS", help="Code that RUN names and may import."),
        click.option("--step", type=STEP, metavar="N", help="Checkpoint to use.  [default: newest whole one]"),
        click.argument("overrides", nargs=-1, metavar="[SECTION.FIELD=VALUE ...]"),
        click.argument("run", type=click.Path(path_type=Path)),
    ):
        command = decorate(command)
    return command


sequences_option = click.option(
    "--sequences",
    callback=lambda context, parameter, text: _sequences(text),
    metavar="N|all",
    help="Validation sequences of each domain.  [default: the run's train.eval_sequences, which training evaluates]",
)


def on_every_rank(
    use: Use,
    work: Callable[[OpenedRun], None],
    check: Callable[[Plan], None] = lambda plan: None,
    tokenizer: Path | None = None,
) -> None:
    """Open the run and do ``work`` on every rank: in this process, or with ``--nproc`` in processes of their own.

    These get this command's own arguments. Errors that can be found before they start are found here; ``check`` raises
    for plans that the command cannot use. With a ``tokenizer`` no corpus is opened.
    """
    from unipool_dist.inference.layout import inference_plan

    trust(use.trust)
    # Else torch tells of a lost peer in twenty lines of C++ frames, before the line that says what happened.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if use.nproc is not None:
        check(inference_plan(use.run, use.overrides, use.nproc, use.step))
        from unipool_dist.run.launch import launch_local

        launch_local(_own_arguments(click.get_current_context()), use.nproc)
        return
    end_with_launcher()
    environment = read_environment()
    plan = inference_plan(use.run, use.overrides, environment.world_size, use.step)
    check(plan)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is to be saved; no traceback from every rank
    from unipool_dist.inference.opened import opened_run
    from unipool_dist.run.ending import ending_clearly

    opening = opened_run(use.run, plan, environment, use.step, tokenizer)
    with ending_clearly(environment, plan.config), opening as opened:
        if opened.is_main:
            for note in opened.notes:
                say(note, err=True)
        work(opened)


def chosen_batches(run: OpenedRun, sequences: int | Literal["all"] | None) -> dict[str, StoredSequences]:
    """Return by domain the validation sequences that ``--sequences`` asks for.

    Raises:
        UnipoolError: it leaves the number to the run, which evaluates none.
    """
    from unipool_dist.inference.validation import validation_batches

    count = run.plan.train.eval_sequences if sequences is None else sequences
    if count == 0:
        raise UnipoolError("the run has train.eval_sequences=0, so say how many: --sequences=N, or --sequences=all")
    return validation_batches(run, None if count == "all" else count)


def _sequences(text: str | None) -> int | Literal["all"] | None:
    """Parse ``--sequences``; ``None``: as many as in training."""
    if text is None or text == "all":
        return text  # type: ignore[return-value]
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) == 0:
        raise click.BadParameter(
            f"{text!r} is neither a number from 1 to 999999999 nor `all`", param_hint="--sequences"
        )
    return int(text)


def _own_arguments(context: click.Context) -> Sequence[str]:
    """Return the command line of this command, without ``--nproc``."""
    options: list[str] = []
    arguments: list[str] = []
    for parameter in context.command.get_params(context):
        name = parameter.name
        assert name is not None
        if name == "nproc" or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        if isinstance(parameter, click.Argument):
            arguments += [str(each) for each in (value if parameter.nargs == -1 else [value])]
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            options.append(parameter.opts[0])
        else:
            values = value if isinstance(parameter, click.Option) and parameter.multiple else [value]
            options += [f"{parameter.opts[0]}={each}" for each in values]
    assert context.info_name is not None
    return [context.info_name, *options, "--", *arguments]
