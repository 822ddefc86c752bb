"""The command line: one command, `unipool-dist`, with subcommands."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from unipool_dist.base.console import guard_streams, lost, say
from unipool_dist.base.machine import current_versions
from unipool_dist.base.printable import bounded
from unipool_dist.base.system_errors import explained
from unipool_dist.cli.option_types import LazyGroup
from unipool_dist.comm.megatron_import import quiet_libraries
from unipool_dist.errors import UnipoolError
from unipool_dist.resilience.signal_watch import release_signals

COMMANDS = {
    "checkpoint": ("unipool_dist.cli.checkpoint", "List, verify, inspect, reshard, export and import checkpoints."),
    "data": ("unipool_dist.cli.data", "Prepare corpora, and show what they hold."),
    "doctor": ("unipool_dist.cli.doctor", "Examine what a run is about to use, and name what is slow."),
    "eval": ("unipool_dist.cli.eval", "Evaluate the model of RUN: validation loss, and accuracy in tasks."),
    "experiment": (
        "unipool_dist.cli.experiment",
        "Train the variants that FILE describes, each with several seeds.",
    ),
    "generate": ("unipool_dist.cli.generate", "Continue a text with a run's model."),
    "model": ("unipool_dist.cli.model", "Show parameters, FLOPs per token and bytes per rank of CONFIG."),
    "probe": (
        "unipool_dist.cli.probe",
        "Probe how much the routing of RUN's model matters, and who uses which expert.",
    ),
    "report": ("unipool_dist.cli.report", "Compare the runs in DIR on one HTML page: losses, experts, probes."),
    "status": ("unipool_dist.cli.status", "Show state, step, loss, speed and last checkpoint of runs."),
    "submit": ("unipool_dist.cli.submit", "Submit the run that CONFIG describes to SLURM."),
    "torchrun": ("unipool_dist.cli.torchrun", "Start one node's processes of a run; once on every node."),
    "train": ("unipool_dist.cli.train", "Train the model that CONFIG describes."),
}
"""The module that each command is in, and the beginning of its help."""
_NOBODY_READS = (errno.EPIPE, errno.EIO, errno.EBADF)
"""A reader that has seen enough, a closed terminal, an output that was never open: not an error."""
_TAKE_SIGNALS = ("train", "torchrun", "doctor")  # themselves, once they can


def _show_versions(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        versions = current_versions()
        say("\n".join(f"{name} {versions[name]}" for name in sorted(versions, key=lambda name: name != "unipool-dist")))
        context.exit()


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_versions,
    help="Show versions and exit.",
)
@click.pass_context
def cli(context: click.Context) -> None:
    """Train UniPool models: one pool of experts, owned across all pipeline stages.

    \b
    First steps:
      unipool-dist data prepare data/default        real text, tokenized
      unipool-dist train configs/small.yaml --nproc 4
    \b
    On a cluster, start `unipool-dist train CONFIG` once per process with torchrun or srun
    (launchers/). Any field of the configuration can be set behind it: train.steps=200.
    """
    if context.invoked_subcommand not in _TAKE_SIGNALS:
        release_signals()


def main() -> None:
    """Run the command line. User errors are printed without a traceback; exit status 1, or 2 for wrong usage.

    A closed console ends no command. If output was lost for another reason, such as a full disk, the exit status of a
    command that does nothing but print is 1.
    """
    guard_streams()
    try:
        _check_encoding(sys.argv[1:])
        with quiet_libraries():
            status = cli.main(standalone_mode=False)
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        say(bounded(text.getvalue().removesuffix("\n")), err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        say("interrupted", err=True)
        sys.exit(1)
    except UnipoolError as error:
        _fail(str(error))
    except (OSError, RuntimeError, MemoryError, ImportError) as error:
        sentence = explained(error)
        if sentence is None:
            raise
        _fail(sentence)
    if status:
        sys.exit(status)
    gone = lost()
    if gone is not None and gone.errno not in _NOBODY_READS and sys.argv[1:2] != ["train"]:
        _fail(f"standard output could not be written: {gone.strerror}; what was printed is not all there")


def _check_encoding(arguments: Sequence[str]) -> None:
    """Refuse arguments that no file of this program could hold: they are written into configurations and records.

    Exits with status 2 after a line that names the first one.
    """
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError as error:
            shown = argument.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            _fail(f"the argument {shown} is not UTF-8 (after {error.start} characters); convert it", status=2)


def _fail(message: str, status: int = 1) -> NoReturn:
    say(bounded(f"error: {message}"), err=True)
    sys.exit(status)
