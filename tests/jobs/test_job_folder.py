"""``RUN/job``: frozen over what an earlier submission has frozen, and over nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.trees import snapshot
from unipool_dist.base.belongings import ForeignError, foreign
from unipool_dist.config import Config
from unipool_dist.jobs.folder import JobFolder
from unipool_dist.jobs.freeze import freeze_code, freeze_config
from unipool_dist.jobs.submission import check_job_folders
from unipool_dist.run.lock import RunLock
from unipool_dist.run.own_files import JOB_FOLDER


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> JobFolder:
    folder = JobFolder(tmp_path_factory.mktemp("runs") / "run")
    freeze_config(folder.run_dir, Config())
    freeze_code(folder, sys.executable)
    with RunLock(folder.path):
        pass
    (folder.path / "submissions").write_text("1\n")
    return folder


def test_what_was_frozen_is_known_again_and_can_be_frozen_anew(frozen: JobFolder) -> None:
    check_job_folders(frozen, {".": Config()})
    (frozen.files.code / "unipool_dist" / "__pycache__").mkdir(exist_ok=True)
    (frozen.files.code / "unipool_dist" / "__pycache__" / "errors.cpython-311.pyc").touch()
    (frozen.files.code / "unipool_dist" / "gone.py").touch()  # of another version
    freeze_code(frozen, sys.executable)
    assert foreign(frozen.path, JOB_FOLDER) == []
    assert not (frozen.files.code / "unipool_dist" / "gone.py").exists()


@pytest.mark.parametrize("name", ["code/unipool_dist/notes.txt", "thesis.tex", "code/mine/a.py", "launchers/a.png"])
def test_what_somebody_has_put_there_is_named_and_stays(frozen: JobFolder, name: str) -> None:
    path = frozen.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("of somebody")
    before = snapshot(frozen.path)
    with pytest.raises(ForeignError, match=name.split("/")[-1] if "mine" not in name else "mine"):
        check_job_folders(frozen, {".": Config()})
    assert snapshot(frozen.path) == before
    path.unlink()
    if "mine" in name:
        path.parent.rmdir()


@pytest.mark.parametrize("name", ["config.yaml", "job.json", "notes.txt"])
def test_another_folder_of_that_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "0-a" / "job").mkdir(parents=True)
    (tmp_path / "0-a" / "job" / name).write_text("mine: yes\n")
    with pytest.raises(ForeignError, match="0-a/job"):
        check_job_folders(JobFolder(tmp_path), {"0-a": Config()})
