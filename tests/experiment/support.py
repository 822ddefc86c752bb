"""Experiments small enough for tests: their files, and the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.support.running import one_thread
from tests.support.runs import TINY_RUN


def write_experiment(folder: Path, corpus: Path, **fields: Any) -> Path:
    """``folder/exp.yaml``: a tiny model; ``fields`` replace those of the file, and are left out if ``None``."""
    common = [item.partition("=") for item in TINY_RUN]
    values: dict[str, Any] = {
        "output": str(folder / "out"),
        "set": {
            **{name: yaml.safe_load(value) for name, _, value in common},
            "data.path": str(corpus),
            "model.num_layers": 2,
            "log.tensorboard": False,
            "train.steps": 6,
        },
        "seeds": [1, 2],
        "variants": {"plain": None, "vanilla": {"set": {"pool.layers_per_group": 1, "pool.router": "softmax"}}},
    }
    values |= fields
    path = folder / "exp.yaml"
    path.write_text(
        yaml.safe_dump({name: value for name, value in values.items() if value is not None}, sort_keys=False)
    )
    return path


def command(*arguments: object) -> list[str]:
    """``unipool-dist experiment``."""
    return [sys.executable, "-m", "unipool_dist", "experiment", *map(str, arguments)]


def complete(*arguments: object, status: int = 0, **options: Any) -> tuple[str, str]:
    """The command, run to its end; its standard output and standard error."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=600, **{"env": one_thread(), **options}
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout, done.stderr
