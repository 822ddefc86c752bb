"""Start this node's processes of a run, pass signals on to them, and end them all when one fails."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import unipool_dist
from unipool_dist.base.console import say
from unipool_dist.base.exit_statuses import RESUME
from unipool_dist.resilience.forwarding import SignalForwarder
from unipool_dist.resilience.orphans import announce_launcher, end_with_launcher
from unipool_dist.resilience.signal_watch import STOP_SIGNALS, hold_signals
from unipool_dist.resilience.watchdog_report import NoProgressError
from unipool_dist.run.local_folder import local_folder
from unipool_dist.run.local_rendezvous import BACKEND, settings_of

UNIPOOL_DIST = ("-m", "unipool_dist")
AGENT_SIGNALS = "SIGQUIT"
"""On this the agent ends the processes itself; the others are passed on to them."""
_AGENT_PATIENCE_S = 30  # from the agent's SIGTERM to its SIGKILL; not to be set


def launch_local(arguments: Sequence[str], num_processes: int, program: Sequence[str] = UNIPOOL_DIST) -> None:
    """Run ``python PROGRAM ARGUMENTS`` in ``num_processes`` processes on this machine, as :func:`run_agent` does."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes share the machine's cores
    ours = tuple(program) == UNIPOOL_DIST
    if ours:
        import_safely()
    with local_folder() as folder:
        config = LaunchConfig(
            run_id="unipool-dist",
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_processes,
            rdzv_backend=BACKEND,
            rdzv_configs=settings_of(folder, serves=False),
            logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
            max_restarts=0,
            monitor_interval=0.5,
            signals_to_handle=AGENT_SIGNALS,
        )
        command = [*program, *arguments]
        run_agent(lambda: elastic_launch(config, sys.executable)(*command), num_processes, hold=ours)


def import_safely() -> None:
    """Keep any Python that this process starts from looking for modules in the current directory.

    ``python -m`` would: every rank would run a ``yaml.py`` there, whoever put it there.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    root = Path(unipool_dist.__file__).parents[1]
    if Path.cwd() == root:  # a working tree, perhaps not installed: the processes would not find this package
        entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([*entries, str(root)]))  # once, however often called


def run_agent(agent: Callable[[], object], num_processes: int, *, hold: bool) -> None:
    """Run ``agent``, which starts this node's ``num_processes`` processes and waits for them, as torchrun's does.

    SIGTERM, SIGINT, SIGUSR1 and SIGHUP go to each process once; with ``hold`` not before it asks for them
    (:func:`~unipool_dist.resilience.signal_watch.release_signals`). The run ends as its processes end: if those that
    did not end with 0 ended with 75 (``RESUME``), exits with 75 after a line that says so. When one fails the agent
    ends the others; exits with status 1 then, after a line that says which rank failed first and how.
    """
    end_with_launcher()  # an experiment's, or none
    announce_launcher()
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").addFilter(_is_no_stop)
    with SignalForwarder(num_processes) as forwarder, hold_signals() if hold else nullcontext():
        try:
            agent()
        except ChildFailedError as error:
            forwarder.ignore_from_now()  # the exit status is decided
            status, line = outcome(error)
            say(line, err=True)
            sys.exit(status)


_CAUSES_OF = {
    "SIGKILL": " (out of memory?)",
    "SIGBUS": " (a mapped file, such as the corpus, was truncated or is on a failing disk?)",
}


def outcome(error: ChildFailedError) -> tuple[int, str]:
    """Return the launcher's exit status and last line, for processes that ended with ``error``."""
    for failure in error.failures.values():
        if (summary := _stuck(failure)) is not None:
            return RESUME, (
                f"ended: the run made no progress, see {summary}; the same command with --resume continues from the "
                f"newest checkpoint"
            )
    causes = _causes(error)
    if causes and all(failure.exitcode == RESUME for failure in causes.values()):
        return RESUME, "stopped: the same command with --resume continues"
    causes = {rank: failure for rank, failure in causes.items() if failure.exitcode != RESUME}
    # A rank that a signal killed, if there is one: the others fail soon after, having lost it; else the first to fail.
    killed = [(rank, failure) for rank, failure in causes.items() if failure.exitcode < 0]
    first = sorted(causes.items(), key=lambda item: item[1].timestamp)
    rank, failure = (killed or first or [error.get_first_failure()])[0]
    return 1, f"error: rank {rank} (process {failure.pid}) {_how(failure.exitcode)}; all processes were ended"


def _stuck(failure: ProcessFailure) -> str | None:
    """Return where the watchdog's summary is, if the watchdog ended this rank."""
    message: object = failure.message
    if isinstance(message, dict):  # as torch's ErrorHandler writes it
        message = message.get("message")
    kind, _, summary = str(message).partition(": ")
    return summary if kind == NoProgressError.__name__ else None


def _causes(error: ChildFailedError) -> dict[int, ProcessFailure]:
    """Return the failures by rank, without the ranks that the agent ended because another had failed.

    It ends them by SIGTERM, or in the end by SIGKILL.
    """
    _, first = error.get_first_failure()
    return {
        rank: failure
        for rank, failure in error.failures.items()
        if failure.exitcode != -signal.SIGTERM
        and not (
            failure.exitcode == -signal.SIGKILL and failure.timestamp - first.timestamp >= _AGENT_PATIENCE_S - 1
        )  # timestamps are whole seconds
    }


def _how(exit_code: int) -> str:
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"was killed by {name}{_CAUSES_OF.get(name, '')}"
    if exit_code - 128 in STOP_SIGNALS:
        return f"ended at a second signal, {signal.Signals(exit_code - 128).name}"
    return f"ended with status {exit_code}; its error is above"


def _is_no_stop(record: logging.LogRecord) -> bool:
    """Return whether to show a record of the agent: it logs processes that stopped in good order as failures."""
    return not record.getMessage().startswith(f"failed (exitcode: {RESUME})")
