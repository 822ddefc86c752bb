"""The names in a run directory: pinned, as runs of earlier versions have them, and spelled in one place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import unipool_dist
from unipool_dist.base.run_directory import Entry, RunDirectory, WatchdogFolder

PACKAGE = Path(unipool_dist.__file__).parent
ENTRIES = {name: entry for name, entry in vars(RunDirectory).items() if isinstance(entry, Entry)}
NAMES = {Path(entry.relative).name for entry in ENTRIES.values()} | {"summary.txt", "board"}
FILES = {name for name in NAMES if "." in name}
OF_SOMETHING_ELSE = {
    "base/drafts.py": {".lock"},  # of a draft
    "data/sample_index.py": {"cache"},  # of a corpus
    "data/place.py": {"cache"},
    "jobs/freeze.py": {"launchers"},  # of the project
}
# fmt: off
ON_DISK = [
    "config.yaml", "data_summary.json", "metrics.jsonl", "expert_usage.jsonl", "tensorboard", "profile", "gpu_memory",
    "mlflow", "tracker_id.txt", "loss_curve.png", "expert_usage.png", "checkpoints", "checkpoints/aside", "cache",
    "placement.json", ".lock", "heartbeat.json", ".handover", "watchdog", "probe", "probe/probe.json", "job",
    "job/job.json", "job/config.yaml", "job/deepspeed.json", "job/job.sbatch", "job/.lock", "job/attempts.jsonl",
    "job/submissions", "job/doctor.status", "job/packages.txt", "job/environment.txt", "job/code.diff", "job/code",
    "job/user_code", "job/launchers", "job/bin", "logs", "logs/train.log", "report.html", "figures",
]
# fmt: on


def test_the_names_are_those_of_earlier_versions() -> None:
    assert [entry.relative for entry in ENTRIES.values()] == ON_DISK
    run = RunDirectory("somewhere")
    assert {name: getattr(run, name) for name in ENTRIES} == {
        name: Path("somewhere") / relative for name, relative in zip(ENTRIES, ON_DISK, strict=True)
    }
    stuck = WatchdogFolder(run.watchdog / "2026-01-02T03-04-05")
    assert [stuck.summary.name, stuck.board.name, stuck.stacks(7).name] == ["summary.txt", "board", "rank-7.txt"]


def test_the_summaries_of_the_watchdog_are_found(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.watchdog_summaries() == []
    stuck = WatchdogFolder(run.watchdog / "alone")
    stuck.path.mkdir(parents=True)
    stuck.summary.touch()
    stuck.stacks(0).touch()
    assert run.watchdog_summaries() == [stuck.summary]


def test_no_other_module_spells_a_name_of_a_run_directory() -> None:
    spelled = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).as_posix()
        if module != "base/run_directory.py":
            found = set(names_spelled_in(path.read_text(encoding="utf-8"))) - OF_SOMETHING_ELSE.get(module, set())
            spelled += [f"{module}: {name}" for name in sorted(found)]
    assert spelled == [], "use unipool_dist.base.run_directory"


def test_the_scan_finds_every_way_of_spelling() -> None:
    assert [*names_spelled_in('"""metrics.jsonl"""\nsay("written to metrics.jsonl")')] == []
    for text in (
        'x = "metrics.jsonl"',
        "x = run / f'{name}/metrics.jsonl'",
        r'x = r"a|metrics\.jsonl"',
        'x = dict.fromkeys(("metrics.jsonl",))',
    ):
        assert [*names_spelled_in(text)] == ["metrics.jsonl"], text
    assert [*names_spelled_in('x = run_dir / "job" / name')] == ["job"]
    assert [*names_spelled_in('x["job"]')] == []


def names_spelled_in(source: str) -> Iterator[str]:
    """Names of files in strings that are paths or expressions, not sentences; names of any kind behind ``/``."""
    tree = ast.parse(source)
    sentences = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in sentences:
            pieces = [] if " " in node.value else re.split(r"[/|]", node.value.replace("\\", ""))
            yield from FILES & {*pieces}
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
            yield from (NAMES - FILES) & {node.right.value}
