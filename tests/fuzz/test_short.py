"""A short run of ``make fuzz``: no input of any class breaks a promise."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.timeout(300)
def test_a_few_hostile_inputs_of_every_class() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz", "--seed", "18", "--share", "0.01"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "seed 18"
    classes = {line.split()[0]: line.split()[1:] for line in said[2:]}
    assert set(classes) == {"configurations", "manifests", "checkpoints", "corpora", "sources", "submissions", "total"}
    for kind, (inputs, accepted, refused, failed, *_) in classes.items():
        assert (int(failed), int(accepted) + int(refused)) == (0, int(inputs)), kind
        assert int(accepted) > 0, f"{kind}: what is valid is taken"
        assert int(refused) > 0, f"{kind}: what is hostile is hostile"
