"""``unipool-dist checkpoint list`` and ``verify``: which checkpoints there are, and whether they are intact."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from unipool_dist.base.console import say
from unipool_dist.base.printable import aligned
from unipool_dist.base.progress_bars import byte_bar
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.units import size
from unipool_dist.checkpoint.directory import step_in_name
from unipool_dist.checkpoint.finding import examine
from unipool_dist.checkpoint.manifest import join_faults, read_manifest
from unipool_dist.checkpoint.offline.locate import checkpoint_folders
from unipool_dist.checkpoint.offline.survey import Entry, survey
from unipool_dist.cli.checkpoint.common import json_option, layout, print_json, run_argument
from unipool_dist.cli.option_types import STEP
from unipool_dist.errors import CheckpointError

_HEAD = ("step", "written at", "size", "files", "written by", "state")


@click.command("list")
@run_argument
@json_option
def list_(run: Path, as_json: bool) -> None:
    """List the checkpoints of RUN, and what else is among them.

    A checkpoint is "whole" if its files have the sizes in its manifest; `verify` reads them. Others are marked:
    unfinished ones, which a run is writing or a killed one has left; half-deleted ones; and those that a resumed run
    has set aside in checkpoints/aside. No run resumes from these.
    """
    entries = survey(run)
    if as_json:
        print_json({"run": run, "checkpoints": [_record(entry) for entry in entries]})
    elif not entries:
        say(f"{run} has no checkpoints: there are none in {RunDirectory(run).checkpoints}")
    else:
        rows = [_HEAD, *(_row(entry) for entry in entries)]
        say("\n".join(aligned(rows, right=(0, 2, 3))))


@click.command()
@run_argument
@click.option("--step", type=STEP, metavar="N", help="Only the checkpoint of this step.")
@json_option
def verify(run: Path, step: int | None, as_json: bool) -> None:
    """Read every byte of RUN's checkpoints and compare it with their manifests.

    Exit status 1 if anything is wrong; each bad file is named.
    """
    folders = checkpoint_folders(run, step)
    results: list[dict[str, Any]] = []
    with byte_bar("verifying", sum(_stated_bytes(folder) for folder in folders)) as count:
        for folder in folders:
            _, faults = examine(folder, "every byte", count)
            if not folder.exists():
                say(f"{folder} was deleted meanwhile by the run, and is left out", err=True)
                continue
            results.append({"step": _step(folder), "ok": not faults, "faults": faults, "bytes": _stated_bytes(folder)})
    ok = all(result["ok"] for result in results)
    if as_json:
        print_json({"run": run, "ok": ok, "checkpoints": results})
    else:
        for result in results:
            state = "whole" if result["ok"] else "DAMAGED"
            say(f"step {result['step']}: {state}, {size(result['bytes'])}")
            for fault in result["faults"]:
                say(f"  {fault}")
    if not ok:
        sys.exit(1)


def _stated_bytes(folder: Path) -> int:
    try:
        return read_manifest(folder).num_bytes
    except CheckpointError:
        return 0


def _step(folder: Path) -> int | None:
    """Return the step of ``folder``; ``None`` if it was renamed and has no readable manifest."""
    try:
        return read_manifest(folder).step
    except CheckpointError:
        return step_in_name(folder.resolve())


def _state(entry: Entry) -> str:
    if entry.kind == "unfinished":
        return "unfinished: being written, or left by a killed run"
    if entry.kind == "half-deleted":
        return "half-deleted"
    state = join_faults(entry.faults) or "whole"
    return f"set aside ({entry.reason}): {state}" if entry.kind == "aside" else state


def _row(entry: Entry) -> tuple[str, ...]:
    progress = entry.progress
    return (
        str(entry.step),
        progress.written_at if progress else "-",
        size(entry.num_bytes),
        str(entry.num_files),
        layout(progress.layout) if progress else "-",
        _state(entry),
    )


def _record(entry: Entry) -> dict[str, Any]:
    progress = entry.progress
    return {
        "step": entry.step,
        "path": entry.folder,
        "kind": entry.kind,
        "reason": entry.reason,
        "whole": entry.kind in ("checkpoint", "aside") and not entry.faults,
        "faults": entry.faults,
        "bytes": entry.num_bytes,
        "files": entry.num_files,
        "written_at": progress.written_at if progress else None,
        "layout": progress.layout if progress else None,
    }
