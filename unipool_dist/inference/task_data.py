"""The tasks for evaluation and where their data comes from: local files, never the network.

Prompts, choices and metrics of the paper's seven tasks are those of lm-eval; its names for the tasks are used here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unipool_dist.base.reading import parse_json, read_text
from unipool_dist.errors import DataError, UnipoolError

HELD_OUT = "heldout"
PAPER = "paper"
"""Means all seven tasks."""


@dataclass(frozen=True)
class PaperTask:
    """A task of the paper: its name in lm-eval, the split evaluated, and its dataset on the Hugging Face hub."""

    folder: str
    split: str
    dataset: str


PAPER_TASKS = {
    "arc_easy": PaperTask("arc", "test", "allenai/ai2_arc, ARC-Easy"),
    "arc_challenge": PaperTask("arc", "test", "allenai/ai2_arc, ARC-Challenge"),
    "piqa": PaperTask("piqa", "validation", "baber/piqa"),
    "hellaswag": PaperTask("hellaswag", "validation", "Rowan/hellaswag"),
    "winogrande": PaperTask("winogrande", "validation", "allenai/winogrande, winogrande_xl"),
    "lambada_openai": PaperTask("lambada", "test", "EleutherAI/lambada_openai, default"),
    "race": PaperTask("race", "test", "EleutherAI/race, high"),
}
_KINDS = (".jsonl", ".parquet")
_MAX_BYTES = 1 << 30
"""Of a file of JSON lines; the largest of the seven tasks has a hundredth of it."""


def task_names(text: str) -> list[str]:
    """Parse a comma-separated list of tasks, each once.

    Raises:
        UnipoolError: it names an unknown task.
    """
    names: list[str] = []
    for name in text.split(","):
        names += PAPER_TASKS if name.strip() == PAPER else [name.strip()]
    unknown = [name for name in names if name not in PAPER_TASKS and name != HELD_OUT]
    if unknown:
        raise UnipoolError(
            f"--tasks: there is no task {', '.join(unknown) or repr(text)}; choose among {HELD_OUT}, "
            f"{', '.join(PAPER_TASKS)}, or {PAPER} for those but the first"
        )
    return list(dict.fromkeys(names))


def data_files(names: Sequence[str], folder: Path | None) -> dict[str, list[Path]]:
    """Return by task its files in ``folder``: ``TASK/SPLIT*.jsonl`` or ``.parquet``; none for ``heldout``.

    Raises:
        DataError: data of some tasks is missing; all of them are named.
    """
    wanted = {name: PAPER_TASKS[name] for name in names if name != HELD_OUT}
    if wanted and folder is None:
        raise DataError(
            f"{', '.join(wanted)}: say where the data is: --task-data DIRECTORY, with a file "
            f"TASK/{next(iter(wanted.values())).split}.jsonl or .parquet for each of them"
        )
    found = {name: _files(folder / name, task.split) for name, task in wanted.items()} if folder else {}
    missing = [
        f"{name}: no {wanted[name].split}*.jsonl or .parquet in {folder / name}, of {wanted[name].dataset}"
        for name, files in found.items()
        if folder and not files
    ]
    if missing:
        raise DataError("--task-data lacks tasks:\n  " + "\n  ".join(missing) + "\nSee docs/evaluation.md")
    return found


def read_rows(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Read the rows of data files, as the hub's dataset has them.

    Raises:
        DataError: a file cannot be read, or holds no rows.
    """
    import pyarrow.parquet

    rows: list[dict[str, Any]] = []
    for path in files:
        try:
            if path.suffix == ".parquet":
                rows += pyarrow.parquet.read_table(path).to_pylist()
            else:
                # Not splitlines(), which knows line ends that JSON leaves within a string.
                rows += [parse_json(line) for line in read_text(path, max_bytes=_MAX_BYTES).split("\n") if line.strip()]
        except (OSError, ValueError) as error:  # pyarrow's are ValueErrors too
            raise DataError(f"{path} cannot be read: {error}; fetch it again") from None
    if not rows:
        raise DataError(f"{', '.join(map(str, files))}: no rows in it; fetch it again")
    return rows


def _files(folder: Path, split: str) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.startswith(split) and path.suffix in _KINDS)
