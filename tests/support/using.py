"""Using a trained run in worker processes, and its commands in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from click.testing import CliRunner
from megatron.core import parallel_state

from tests.support.running import one_thread
from unipool_dist.cli import cli
from unipool_dist.comm.environment import Environment
from unipool_dist.errors import UnipoolError
from unipool_dist.inference.layout import inference_plan
from unipool_dist.inference.opened import OpenedRun, opened_run

LAYOUTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "pp2": (2, ("parallel.pp=2",)),
    "dp2": (2, ()),
    "tp2": (2, ("parallel.tp=2",)),
    "pp2-tp2": (4, ("parallel.pp=2", "parallel.tp=2")),
    "pp2-dp2-q2": (4, ("parallel.pp=2", "pool.parallel_size=2")),
}
"""Processes, and overrides."""


def with_run(
    environment: Environment,
    run_dir: Path,
    overrides: tuple[str, ...],
    port: int,
    work: Callable[..., Any],
    *arguments: Any,
    step: int | None = None,
    tokenizer: Path | None = None,
) -> Any:
    """What ``work(run, *arguments)`` returns on this rank; an error for the user as ``Class: message``."""
    config = inference_plan(run_dir, overrides, environment.world_size)
    try:
        with opened_run(run_dir, config, replace(environment, master_port=port), step, tokenizer) as run:
            return work(run, *arguments)
    except UnipoolError as error:  # on every rank; the process groups are left as they are, for a process that ends
        if dist.is_initialized():
            parallel_state.destroy_model_parallel()
            dist.destroy_process_group()
        return f"{type(error).__name__}: {error}"


def refused(*arguments: object) -> str:
    """The error for the user in which a command ends before it has opened anything."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exception is not None and result.stdout == "", result.output
    if isinstance(result.exception, SystemExit):  # wrong usage
        return result.stderr
    assert isinstance(result.exception, UnipoolError), result.exception
    return str(result.exception)


def complete(*arguments: object, stdin: str = "", status: int = 0) -> tuple[str, str]:
    """Run a command to its end in a process of its own; its standard output and standard error."""
    command = [sys.executable, "-m", "unipool_dist", *map(str, arguments)]
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=600, check=False, env=one_thread()
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout, done.stderr


def validation_of_training(run_dir: Path) -> dict[str, Any]:
    """The last validation that training recorded."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, Any] = [record for record in records if "validation" in record][-1]
    return found


def identity(run: OpenedRun) -> tuple[int, int]:
    """Which checkpoint was opened."""
    return run.step, run.tokens
