"""What launchers leave in the temporary directory: nothing, and nothing of anybody else's is touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from unipool_dist.run.local_folder import local_folder

KILLED = """
import os, signal
from unipool_dist.run.local_folder import local_folder
with local_folder() as folder:
    (folder / "store-0").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_folder_is_private_and_gone_at_the_end(temporary: Path) -> None:
    with local_folder() as folder:
        assert folder.parent == temporary and folder.stat().st_mode & 0o777 == 0o700
        (folder / "store-0").touch()
    assert list(temporary.iterdir()) == []


def test_what_a_killed_launcher_left_goes_with_the_next_start(temporary: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED], check=False, timeout=60)
    (left,) = temporary.iterdir()
    with local_folder() as other:
        assert list(temporary.iterdir()) == [other]
    assert not left.exists()


def test_folders_in_use_and_whatever_else_has_such_a_name_stay(temporary: Path) -> None:
    (temporary / "mine").mkdir()
    (temporary / "mine" / "launcher.lock").touch()
    (temporary / "unipool-dist-launch-notes").mkdir()  # without a lock
    (temporary / "unipool-dist-launch-notes" / "thesis.tex").touch()
    (temporary / "unipool-dist-launch-link").symlink_to(temporary / "mine")
    (temporary / "unipool-dist-launch-file").touch()
    (temporary / "unipool-dist-launch-open").mkdir(mode=0o755)
    (temporary / "unipool-dist-launch-open" / "launcher.lock").touch()
    before = sorted(temporary.rglob("*"))
    with local_folder() as folder, local_folder():
        assert folder.is_dir()
    assert sorted(temporary.rglob("*")) == before
