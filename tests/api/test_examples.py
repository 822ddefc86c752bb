"""The examples run, on one process and a corpus small enough for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import train_command
from unipool_dist.observe.jsonlines import read_json_lines

EXAMPLES = Path(__file__).parents[2] / "examples"
IN_ONE_PROCESS = """
import json, runpy, sys
losses = runpy.run_path(sys.argv[1] + "/own_loop.py")["main"]()
names = {}
for cell in json.load(open(sys.argv[1] + "/notebook.ipynb"))["cells"]:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]), names)
validation = {name: loss.nats_per_token for name, loss in names["validation"].items()}
print(json.dumps({"loop": losses, "notebook": names["losses"], "validation": validation, "text": names["text"]}))
"""


@pytest.fixture
def folder(tmp_path: Path, tiny_corpus: Path) -> Path:
    """A folder with data/default, as the README leaves it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "default").symlink_to(tiny_corpus)
    return tmp_path


def test_own_source_of_text(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "unipool_dist", "data", "prepare", "corpus", "--corpus=own_source:sums"]
    variables = {**os.environ, "UNIPOOL_DIST_USER_CODE": str(EXAMPLES)}
    done = subprocess.run(
        [*command, "--vocab-size=290"], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "own_source.py 1" in done.stdout


def test_own_loop_and_notebook(folder: Path) -> None:
    command = [sys.executable, "-c", IN_ONE_PROCESS, str(EXAMPLES)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["loop"]) == 3 and all(5 < loss < 6 for loss in found["loop"]), "about log 256"
    assert list(found["notebook"]) == ["1", "2", "3", "4", "5", "6"]
    assert found["notebook"]["6"] < found["notebook"]["1"]
    assert set(found["validation"]) == {"prose", "sums"} and isinstance(found["text"], str)


def test_own_router_callback_sink_and_a_trace(folder: Path, tiny_corpus: Path) -> None:
    overrides = (
        "log.callbacks=[own_callback:StopWhenGood]", "log.sinks=[own_callback:Csv]", "log.profile_steps=2-3",
        "pool.router=own_router:CosineRouter", "train.steps=60", "optimizer.lr=0.02",
        "log.tensorboard=false", "checkpoint.interval=0",
    )  # fmt: skip
    command = train_command(tiny_corpus, folder / "run", 1, *overrides)
    variables = {**os.environ, "UNIPOOL_DIST_USER_CODE": str(EXAMPLES)}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 75, done.stderr[-3000:]
    assert "stopped: the loss is below 4.0; the state is saved" in done.stderr
    records = read_json_lines(folder / "run" / "metrics.jsonl")
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < 4.0 < losses[-2]
    assert (folder / "run" / "loss.csv").read_text().splitlines() == [
        f"{step},{loss}" for step, loss in enumerate(losses, start=1)
    ]
    assert records[0].keys() >= {"tflops_per_device", "eta_s"} and "mfu" not in records[0], "no peak of a CPU is known"
    trace = json.loads((folder / "run" / "profile" / "steps-2-3-rank-0.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"attention", "exchange", "experts"} <= names, "what Perfetto shows"
