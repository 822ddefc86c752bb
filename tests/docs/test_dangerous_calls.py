"""Where what may run code is allowed: the places that the linter leaves out are those that docs/security.md has."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]


def test_every_place_is_explained() -> None:
    ignored = {place for place in LINT["per-file-ignores"] if place.startswith("unipool_dist/")}
    text = (ROOT / "docs/security.md").read_text()
    section = text.split("## Dangerous calls")[1].split("\n## ")[0]
    table = "\n".join(line for line in section.splitlines() if line.startswith("| `"))
    explained = set(re.findall(r"`(unipool_dist/[\w/]+\.py)`", table))
    assert ignored == explained


def test_no_line_is_left_out_by_itself() -> None:
    marks = re.compile(r"noqa: *(?:TID251|S\d)")
    marked = [path for path in (ROOT / "unipool_dist").rglob("*.py") if marks.search(path.read_text())]
    assert not marked


@pytest.mark.parametrize(
    "line",
    [
        *("import subprocess", "from subprocess import run", "import pickle", "from pickle import loads"),
        *("import os; os.system('x')", "import os; os.popen('x')", "import numpy as np; np.load('x')"),
        *("import torch; torch.load('x')", "import yaml; yaml.safe_load('x')", "import yaml; yaml.load('x')"),
        *("from yaml import SafeLoader", "eval('1')", "exec('1')", "import marshal"),
        *("import asyncio; f = asyncio.create_subprocess_shell", "import jinja2; jinja2.Environment()"),
    ],
)
def test_the_linter_sees(line: str) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed")
    options = ("--no-cache", "--output-format=concise", "--stdin-filename=unipool_dist/made.py")
    done = subprocess.run(
        [str(ruff), "check", *options, "-"], cwd=ROOT, input=line + "\n", capture_output=True, text=True
    )
    assert re.search(r" (TID251|S\d{3}) ", done.stdout), done.stdout + done.stderr
