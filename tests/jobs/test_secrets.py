"""No secret of the submitter's environment or command line is kept, and what may hold one is readable by him alone."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.support.command import Command
from unipool_dist.base.credentials import looks_secret, without_credentials
from unipool_dist.jobs import freeze, slurm
from unipool_dist.jobs.folder import JobFolder
from unipool_dist.jobs.freeze import recorded
from unipool_dist.run.attempts import Attempt, AttemptLog

PW = "SECRETVALUE12"
SECRETS = {
    **dict.fromkeys(("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "WANDB_API_KEY", "NGC_API_KEY"), PW),
    **dict.fromkeys(("RSYNC_PASSWORD", "SECRET", "hf_token", "GH_PAT", "GITHUB_AUTH", "OPENAI_KEY", "JWT"), PW),
    **dict.fromkeys(("WANDB_APIKEY", "COMET_APIKEY", "AZURE_STORAGE_KEY", "DOCKER_AUTH_CONFIG", "MYSQL_PWD"), PW),
    **dict.fromkeys(("SSHPASS", "PGPASS", "PASSPHRASE", "ENCRYPTION_KEY", "KRB5_AUTH", "AUTHORIZATION"), PW),
    "DATABASE_URL": f"postgres://bob:{PW}@db/x",
    "PIP_INDEX_URL": f"https://bob:{PW}@index.example/simple",
    "https_proxy": f"http://bob:{PW}@proxy:3128",
    "AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=https;AccountKey={PW}",
    "SESSION_COOKIE": f"sid={PW}",
    "SENTRY_DSN": f"https://{PW}@sentry.example/1",
    "SLACK_WEBHOOK_URL": f"https://hooks.example/services/{PW}",
    # In names that are kept:
    "SLURM_JWT": PW,
    "CONDA_TOKEN": PW,
    "PYTHON_KEYRING_PASS": PW,
    "TORCH_AUTH_TOKEN": PW,
    "CUDA_API_KEY": PW,
    "SLURM_SUBMIT_URL": f"https://bob:{PW}@host/a",
    "NCCL_SERVER": f"tcp://{PW}@host",
    "SLURM_COMMENT": f"https://host/a?token={PW}",
    "TORCH_HOME": f"s3://bob:p@ss/{PW}@bucket/x",
    "SLURM_ADMIN_COMMENT": "ghp_" + PW + "abcdefghij",
    "XDG_SOMETHING": "Zm9vYmFy" + PW + "aGVsbG8=",
}
HARMLESS = {
    "PATH": "/opt/conda/envs/py311_cu128/bin:/usr/bin",
    "LD_LIBRARY_PATH": "/usr/local/cuda-12.8/lib64",
    "CUDA_VISIBLE_DEVICES": "GPU-8f3c1d2e-1111-2222-3333-444455556666",
    "NCCL_IB_HCA": "=mlx5_0:1,mlx5_1:1",
    "SLURM_JOB_NODELIST": "node[001-016]",
    "SLURM_NODELIST": "node001",
    "OMP_NUM_THREADS": "8",
    "LOADEDMODULES": "cuda/12.8:gcc/13.2.0:openmpi/5.0.3-cuda",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "LANG": "de_DE.UTF-8",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    "UCX_TLS": "rc,cuda_copy,cuda_ipc",
    "PWD": "/home/bob/unipool",
}


def test_no_secret_is_recorded_and_what_explains_a_run_is() -> None:
    lines = recorded(SECRETS | HARMLESS | {"FOO": "bar"})
    assert not [line for line in lines if PW in line]
    assert [line for line in lines if line.endswith("(not recorded)")] != []
    assert {f"{name}={value!r}" for name, value in HARMLESS.items()} <= {*lines}
    assert "FOO=(not recorded)" in lines
    assert "SLURM_SUBMIT_URL='https://host/a'" in lines and "SLURM_COMMENT='https://host/a?...'" in lines


def test_a_variable_is_one_line() -> None:
    (line,) = recorded({"SLURM_A\nB": "x\n\x1b[2Jy"})
    assert "\n" not in line and "\x1b" not in line


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"data.path=https://bob:{PW}@host:80/a", "data.path=https://host:80/a"),
        (f"https://{PW}@host", "https://host"),
        (f"a https://h/x?sig={PW}&b=1 b", "a https://h/x?... b"),
        (f"s3://h/x#{PW}", "s3://h/x?..."),
        (f"x=ftp://u:{PW}@h/a,http://v:{PW}@i/b", "x=ftp://i/b"),
        ("train.steps=7", "train.steps=7"),
        ("user@host", "user@host"),
        ("https://host/a", "https://host/a"),
    ],
)
def test_urls_lose_what_may_be_secret(text: str, kept: str) -> None:
    assert without_credentials(text) == kept


@pytest.mark.parametrize("value", ["node001", "/usr/lib/x86_64-linux-gnu/aaaaaaaaaaaa1", "1:00:00", "a" * 40, "1" * 40])
def test_ordinary_values_look_like_no_secret(value: str) -> None:
    assert not looks_secret(value)


def test_a_submission_keeps_no_secret_where_others_can_read_it(
    unipool_dist: Command, corpus_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "submit_script", lambda script, options: "4711")
    monkeypatch.setattr(freeze, "_git", lambda *arguments: "difference\n")
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    profile = tmp_path / "p.yaml"
    profile.write_text(f"environment: {{WANDB_API_KEY: {PW}}}\n")
    old = os.umask(0)
    try:
        ended = unipool_dist(
            *("submit", corpus_config, "run.dir=here", f"--profile={profile}", "--time=60", "--nodes=1"),
            *("--tasks-per-node=1", f"--name=https://bob:{PW}@host"),
        )
        job = tmp_path / "here/job"
        AttemptLog.read(job).start(Attempt("1", 0, ["n"], 1, 0, 0.0))
    finally:
        os.umask(old)
    assert ended.status == 0, ended.err
    private = {"job.json", "job.sbatch", "environment.txt", "config.yaml", "code.diff", "attempts.jsonl"}
    for path in (path for path in job.rglob("*") if path.is_file() and "code" not in path.parts):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert path.name not in private or mode == 0o600, path
        assert mode & 0o077 == 0 or PW not in path.read_text(encoding="utf-8"), path
    assert private <= {path.name for path in job.iterdir()}
    assert stat.S_IMODE((tmp_path / "here/logs").stat().st_mode) == 0o700
    assert os.access(job / "bin/unipool-dist", os.X_OK)
    assert PW not in (job / "environment.txt").read_text()
    record = JobFolder(tmp_path / "here").read()
    assert "--name=https://host" in record.command and PW not in record.command
    assert PW not in "".join(JobFolder(tmp_path / "here").files.job_script.read_text().splitlines(keepends=True)[:3])


@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_a_script_is_replaced_and_never_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    """A disk that is full when a run is submitted again leaves the script that was there."""
    folder = JobFolder(tmp_path)
    folder.path.mkdir()
    folder.files.job_script.write_text("as it was\n")
    folder.files.job_script.chmod(mode)

    def full(*names: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            folder.write_script("new\n")
    assert folder.files.job_script.read_text() == "as it was\n" and len(list(folder.path.iterdir())) == 1
    folder.write_script("new\n")
    script = folder.files.job_script
    assert script.read_text() == "new\n" and stat.S_IMODE(script.stat().st_mode) == 0o600
