"""A wheel installed outside any checkout: every command works, with the project's own configurations and launchers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support.runs import TINY_RUN

PROJECT = Path(__file__).parents[2]
BUILT_FROM = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "unipool_dist")
ONE_PROCESS = ("parallel.pp=1", "parallel.tp=1", "parallel.dp=auto", "pool.parallel_size=null")
FOLDERS = ("configs", "ds_configs", "launchers", "slurm")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the package is built from; building writes into it."""
    folder = tmp_path_factory.mktemp("wheel") / "source"
    folder.mkdir()
    for name in (*BUILT_FROM, *FOLDERS):
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(PROJECT / name, folder)
    return folder


@pytest.fixture(scope="module")
def site(source: Path) -> Path:
    """A folder in which the wheel is installed; its dependencies are those of the tests."""
    target, wheels = source.parent / "site", source.parent / "dist"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", f"--wheel-dir={wheels}", str(source)])
    (wheel,) = wheels.glob("*.whl")
    _run([*pip, "install", "--no-deps", "--no-index", "--no-compile", f"--target={target}", str(wheel)])
    return target


def _run(command: list[str], **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


class Installed:
    """Calls the installed ``unipool-dist`` in a folder that is no checkout."""

    def __init__(self, site: Path, folder: Path) -> None:
        self.folder, self._site = folder, site

    def __call__(self, *arguments: str) -> str:
        path = f"{self.folder}:{os.environ['PATH']}"
        variables = {**os.environ, "PYTHONPATH": str(self._site), "PATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-m", "unipool_dist", *arguments]
        return _run(command, cwd=self.folder, env=variables)


@pytest.fixture
def installed(site: Path, tmp_path: Path) -> Installed:
    return Installed(site, tmp_path)


def test_the_wheel_carries_the_projects_folders_as_they_are(site: Path) -> None:
    for folder in FOLDERS:
        files = [path for path in sorted((PROJECT / folder).rglob("*")) if path.is_file()]
        copies = [site / "unipool_dist" / "project" / path.relative_to(PROJECT) for path in files]
        assert [copy.read_bytes() for copy in copies] == [path.read_bytes() for path in files]
        assert [os.access(copy, os.X_OK) for copy in copies] == [os.access(path, os.X_OK) for path in files]


def test_a_run_is_trained_and_reported(installed: Installed, tiny_corpus: Path) -> None:
    said = installed(
        "train", "configs/small.yaml", *TINY_RUN, f"data.path={tiny_corpus}", "run.dir=runs/a", "train.steps=3",
        "optimizer.deepspeed=ds_configs/zero0.json", *ONE_PROCESS, "optimizer.warmup_steps=1",
        "train.eval_interval=0", "log.tensorboard=false", "checkpoint.interval=0",
    )  # fmt: skip
    assert "step 3/3" in said
    assert "finished" in installed("status", "runs/a")
    assert installed("--version").startswith("unipool-dist")
    installed("report", "runs")
    assert (installed.folder / "runs" / "report.html").is_file()


def test_a_job_is_submitted_with_code_launchers_and_the_users_modules(installed: Installed, tiny_corpus: Path) -> None:
    arguments = (
        "submit", "configs/small.yaml", f"data.path={tiny_corpus}", "run.dir=run", "--nodes=1", "--tasks-per-node=4",
        "--time=1:00:00", "--profile=slurm/profiles/example.yaml", "log.callbacks=[mine:Mine]",
    )  # fmt: skip
    (installed.folder / "mine.py").write_text("import helper\nraise SystemExit('no submission imports this')\n")
    (installed.folder / "helper.py").write_text("")
    assert "#SBATCH --nodes=1" in installed(*arguments, "--dry-run")
    sbatch = installed.folder / "sbatch"
    sbatch.write_text("#!/bin/sh\necho 4711\n")
    sbatch.chmod(0o755)
    installed(*arguments)
    job = installed.folder / "run" / "job"
    assert os.access(job / "launchers" / "srun.sh", os.X_OK)
    assert (job / "code" / "unipool_dist" / "__main__.py").is_file()
    assert not (job / "code.diff").exists()
    assert sorted(path.name for path in (job / "user_code").iterdir()) == ["helper.py", "mine.py"]
    assert f"UNIPOOL_DIST_USER_CODE={job / 'user_code'}" in (job / "bin" / "unipool-dist").read_text()


def test_an_experiment_is_planned_and_a_machine_examined(installed: Installed, tiny_corpus: Path) -> None:
    (installed.folder / "data").mkdir()
    (installed.folder / "data" / "default").symlink_to(tiny_corpus)
    assert "vanilla-centre" in installed("experiment", "configs/small-scale/search.yaml", "--dry-run")
    assert "free space" in installed("doctor", "configs/small.yaml", *ONE_PROCESS)


def test_a_source_distribution_holds_what_a_wheel_is_built_from(source: Path, tmp_path: Path) -> None:
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    _run([sys.executable, "-c", build], cwd=source)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    for folder in FOLDERS:
        assert {str(path.relative_to(PROJECT)) for path in (PROJECT / folder).rglob("*")} <= names
