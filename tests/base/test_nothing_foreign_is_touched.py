"""Over random trees of files, links and mount points of somebody's: no command removes or changes any of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.foreign_trees import COMMANDS, KINDS, PLACES, Thing, check
from tests.support.running import one_thread

WITHOUT_MOUNTS = [kind for kind in KINDS if kind != "mount"]
THINGS = st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(WITHOUT_MOUNTS)), min_size=1, max_size=5)


@settings(max_examples=250, deadline=None)
@given(things=THINGS, command=st.sampled_from(list(COMMANDS)), begun=st.booleans())
def test_no_command_touches_what_it_has_not_made(things: list[Thing], command: str, begun: bool) -> None:
    """Not even ``train --overwrite``: of what is there it may remove what an earlier command has made, and no more."""
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder).resolve(), things, command, begun=begun)


def test_nor_what_is_mounted(tmp_path: Path) -> None:
    namespace = _mount_namespace()
    if namespace is None:
        pytest.skip("this user may not make a mount namespace")
    command = [*namespace, sys.executable, "-m", "tests.support.foreign_trees", str(tmp_path), "0", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=one_thread())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "60 trees with mount points"


def _mount_namespace() -> list[str] | None:
    """The command that runs another one in a mount namespace of its own, if that is possible."""
    command = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([*command, "mount", "--bind", folder, folder], capture_output=True)
    return command if done.returncode == 0 else None
