"""SLURM's own commands: every call of ``sbatch``, ``scontrol`` and ``squeue`` is here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from unipool_dist.base.programs import run_program
from unipool_dist.errors import UnipoolError

_PATIENCE_S = 60
ALIVE = frozenset(
    {
        *("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "COMPLETING"),
        *("RESIZING", "SIGNALING", "STAGE_OUT", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"),
    }
)
"""States of a job that is still in SLURM's hands."""


class SlurmError(UnipoolError):
    """SLURM is not installed, does not answer, or refuses."""


class NoAnswerError(SlurmError):
    """SLURM has not answered in time; it may or may not have carried out the request."""


def submit_script(script: Path, options: Sequence[str] = ()) -> str:
    """Submit ``script`` and return the job's id. ``options`` override the ``#SBATCH`` lines in it.

    Raises:
        SlurmError: SLURM refuses it; the message is SLURM's.
    """
    answer = _call(["sbatch", "--parsable", *options, str(script)])
    return answer.strip().splitlines()[-1].partition(";")[0]


def requeue(job_id: str) -> None:
    """Put a running job back into the queue; SLURM then ends its tasks and this batch script.

    ``job_id`` is ``ARRAY_INDEX`` for one task of a job array: the number that SLURM gives the task may be the array's.

    Raises:
        SlurmError: it cannot be.
    """
    _call(["scontrol", "requeue", job_id])


def show_job(job_id: str) -> dict[str, str] | None:
    """Return the fields of ``scontrol show job``, or ``None`` if SLURM does not know the job (any more).

    Raises:
        SlurmError: SLURM does not answer.
    """
    jobs = show_array(job_id)
    return jobs[0] if jobs else None


def show_array(job_id: str) -> list[dict[str, str]]:
    """Return the same for every task of a job array; a job that is not an array has one."""
    try:
        answer = _call(["scontrol", "show", "job", "--oneliner", job_id])
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return []
        raise
    return [parse_fields(line) for line in answer.splitlines() if line.strip()]


def parse_fields(line: str) -> dict[str, str]:
    """Parse ``A=1 B=two words C=3`` into a mapping; values may hold spaces and ``=``."""
    starts = list(re.finditer(r"(?:^|(?<=\s))([A-Za-z][A-Za-z/_:]*)=", line))
    ends = [match.start() for match in starts[1:]] + [len(line)]
    return {match[1]: line[match.end() : end].strip() for match, end in zip(starts, ends, strict=True)}


def host_names(node_list: str) -> list[str]:
    """Expand ``n[1-3]`` to ``n1``, ``n2``, ``n3``."""
    return _call(["scontrol", "show", "hostnames", node_list]).split()


def _call(command: list[str]) -> str:
    try:
        done = run_program(command, timeout_s=_PATIENCE_S)
    except FileNotFoundError:
        raise SlurmError(
            f"there is no {command[0]} on PATH: this is not a SLURM machine; work on a login node, or use "
            f"launchers/local.sh on a single machine"
        ) from None
    except TimeoutError:
        raise NoAnswerError(f"{command[0]} has not answered for {_PATIENCE_S} s; see `scontrol ping`") from None
    if done.status:
        said = f"{' '.join(command[:3])} failed: {' '.join(done.err.split()) or done.status}"
        # The command has its own patience (MessageTimeout), and what it asked for may be done all the same.
        raise NoAnswerError(f"{said}; see `scontrol ping`") if "timed out" in done.err else SlurmError(said)
    return done.out
