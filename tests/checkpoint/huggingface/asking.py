"""Asking the program of somebody who has transformers and not this project."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support.running import one_thread

_PACKAGES = ("transformers", "peft", "accelerate")
_MISSING = [name for name in _PACKAGES if find_spec(name) is None]
needs_transformers = pytest.mark.skipif(
    bool(_MISSING), reason=f"{', '.join(_MISSING)} not installed (pip install -e '.[test]')"
)


def ask(task: str, scratch: Path, *arguments: object) -> Any:
    """What the function ``task`` of ``elsewhere.py`` answers; what it asks of the network is refused."""
    answer = scratch / f"{task}.json"
    command = [sys.executable, str(Path(__file__).with_name("elsewhere.py")), task, str(answer), *map(str, arguments)]
    variables = {**one_thread(), "HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch / "cache")}
    variables.pop("PYTHONPATH", None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(answer.read_text())
