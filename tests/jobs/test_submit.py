"""Submitting, with SLURM's commands replaced by scripts that write down how they were called."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from unipool_dist.cli.submit import submit as submit_command
from unipool_dist.config import load_config
from unipool_dist.errors import ConfigError
from unipool_dist.jobs import slurm
from unipool_dist.jobs.folder import JobFolder, run_config
from unipool_dist.jobs.limits import check_time_limit, time_limit_s
from unipool_dist.jobs.submission import check_idle

CONFIG = "model.num_layers=2"


@pytest.fixture
def fake_slurm(tmp_path: Path) -> Path:
    """A folder with an ``sbatch`` that writes its arguments to ``sbatch.called``, and a ``scontrol`` without jobs."""
    folder = tmp_path / "slurm-bin"
    folder.mkdir()
    (folder / "sbatch").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{folder}/sbatch.called\necho "4711;lab"\n')
    (folder / "scontrol").write_text('#!/bin/sh\necho "slurm_load_jobs error: Invalid job id specified" >&2\nexit 1\n')
    for name in ("sbatch", "scontrol"):
        (folder / name).chmod(0o755)
    return folder


def submit(
    cwd: Path, bin_folder: Path | None, *arguments: str, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    path = f"{bin_folder}:{os.environ['PATH']}" if bin_folder else str(cwd / "nothing-here")
    return subprocess.run(
        [sys.executable, "-m", "unipool_dist", "submit", *arguments],
        cwd=cwd,
        env={**os.environ, "PATH": path, **(variables or {})},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture
def config(tmp_path: Path, tiny_corpus: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"data: {{path: {tiny_corpus}}}\nmodel: {{num_layers: 2}}\nparallel: {{pp: 2}}\nrun: {{dir: runs/tiny}}\n"
    )
    return path


COMMON = ("--nodes", "2", "--gpus-per-node", "4", "--time", "1:00:00")


def test_a_submission_freezes_all_that_the_run_is_made_of(tmp_path: Path, fake_slurm: Path, config: Path) -> None:
    done = submit(
        tmp_path, fake_slurm, str(config), "train.steps=7", "run.dir=here", "optimizer.warmup_steps=1", *COMMON
    )
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "here"
    assert "job 4711 is submitted" in done.stdout and f"unipool-dist status {run_dir}" in done.stdout
    frozen = run_config(run_dir)
    assert frozen.train.steps == 7 and frozen.parallel.dp == "auto" and frozen.run.dir == str(run_dir)
    folder = JobFolder(run_dir)
    assert folder.submissions() == ["4711"]
    assert (folder.files.code / "unipool_dist" / "cli" / "submit.py").is_file()
    assert (folder.files.launchers / "srun.sh").is_file()
    job = folder.read()
    assert job.tasks_per_node == 4 and "train.steps=7" in job.command and job.versions["torch"]
    assert "torch==" in (folder.path / "packages.txt").read_text()
    called = (fake_slurm / "sbatch.called").read_text().split()
    assert called == ["--parsable", str(folder.files.job_script)]
    script = folder.files.job_script.read_text()
    for option in (
        "--nodes=2",
        "--gpus-per-node=4",
        "--time=1:00:00",
        "--requeue",
        "--signal=USR1@180",
        "--open-mode=append",
    ):
        assert f"#SBATCH {option}\n" in script
    assert subprocess.run(["bash", "-n", str(folder.files.job_script)]).returncode == 0


def test_a_job_runs_the_frozen_code_though_the_working_tree_is_the_current_directory(
    tmp_path: Path, fake_slurm: Path, config: Path
) -> None:
    """Jobs start where they were submitted, which is often a checkout that goes on changing."""
    assert submit(tmp_path, fake_slurm, str(config), "run.dir=here", *COMMON).returncode == 0
    package = tmp_path / "unipool_dist"
    package.mkdir()
    (package / "__init__.py").write_text('raise SystemExit("the working tree, not the frozen code")\n')
    folder = JobFolder(tmp_path / "here")

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PATH": "/bin:/usr/bin"})

    program = run(folder.path / "bin" / "unipool-dist", "--help")
    assert program.returncode == 0 and "submit" in program.stdout, program.stderr
    assert "SLURM_JOB_ID" in run("bash", folder.files.job_script).stderr, "the batch script has come to its own code"


def test_a_dry_run_prints_the_script_and_leaves_no_trace(tmp_path: Path, fake_slurm: Path, config: Path) -> None:
    done = submit(tmp_path, fake_slurm, str(config), *COMMON, "--dry-run", "--after", "12:13")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/usr/bin/env bash") and "#SBATCH --dependency=afterok:12:13" in done.stdout
    assert not (tmp_path / "runs").exists() and not (fake_slurm / "sbatch.called").exists()


def test_a_range_of_nodes_asks_for_whole_nodes_worth_of_processors(
    tmp_path: Path, fake_slurm: Path, config: Path
) -> None:
    time_and_gpus = ("--gpus-per-node", "4", "--time", "1:00:00")
    done = submit(tmp_path, fake_slurm, str(config), "--nodes", "2-4", *time_and_gpus, "--dry-run")
    lines = done.stdout.splitlines()
    assert {"#SBATCH --nodes=2-4", "#SBATCH --cpus-per-task=4", "#SBATCH --gpus-per-node=4"} <= set(lines), done.stderr
    assert "--ntasks-per-node" not in done.stdout, "SLURM would never give more nodes than it makes tasks of this"


def test_a_sweep_is_an_array_with_a_run_for_every_combination(tmp_path: Path, fake_slurm: Path, config: Path) -> None:
    sweep = ("--sweep", "train.seed=1,2", "--sweep", "optimizer.lr=0.001,0.002", "--max-parallel", "3")
    done = submit(tmp_path, fake_slurm, str(config), "run.dir=all", *COMMON, *sweep)
    assert done.returncode == 0, done.stderr
    folder = JobFolder(tmp_path / "all")
    script = folder.files.job_script.read_text()
    assert "#SBATCH --array=0-3%3" in script and "logs/%A_%a.log" in script
    seen = {(c.train.seed, c.optimizer.lr) for c in (run_config(folder.run_dir / run) for run in folder.read().runs)}
    assert seen == {(1, 0.001), (1, 0.002), (2, 0.001), (2, 0.002)}


def test_the_profile_reaches_the_script(tmp_path: Path, fake_slurm: Path, config: Path) -> None:
    profile = tmp_path / "cluster.yaml"
    profile.write_text(
        "partition: big\naccount: us\ngpu_type: h100\ngpu_option: gres\nmodules: [cuda/12]\nsetup: ['ulimit -n 4096']\n"
        "environment: {NCCL_IB_HCA: 'mlx5 0'}\nsbatch: [--mail-type=END]\nwarning_s: 30\ncpus_per_task: 6\n"
    )
    done = submit(tmp_path, fake_slurm, str(config), *COMMON, "--dry-run", "--profile", str(profile))
    assert done.returncode == 0, done.stderr
    expected = (
        "#SBATCH --partition=big", "#SBATCH --account=us", "#SBATCH --gres=gpu:h100:4", "#SBATCH --cpus-per-task=6",
        "#SBATCH --mail-type=END", "#SBATCH --signal=USR1@30", "module load cuda/12", "ulimit -n 4096",
        "export NCCL_IB_HCA='mlx5 0'",
    )  # fmt: skip
    assert [line for line in expected if line not in done.stdout.splitlines()] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--nodes", "2"), "missing: --time, --gpus-per-node"),
        (
            ("--nodes", "4-2", "--gpus-per-node", "1", "--time", "10"),
            "--nodes=4-2 must be a number of nodes or a range",
        ),
        (("--nodes", "2", "--gpus-per-node", "1", "--time", "soon"), "--time soon"),
        (("--nodes", "2", "--gpus-per-node", "1", "--time", "4"), "--time=4 is 240 s, and warning_s=180 s"),
        ((*COMMON, "--sweep", "seed=1,2"), "is not of the form section.field=value"),
        (("--nodes", "1", "--gpus-per-node", "1", "--time", "10"), "parallel.pp=2"),
        (("data.path=nowhere", *COMMON), "nowhere"),
        (("run.dir=with space", *COMMON), "without spaces"),
        ((*COMMON, "--profile", "missing.yaml"), "profile missing.yaml cannot be read"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    tmp_path: Path, fake_slurm: Path, config: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = submit(tmp_path, fake_slurm, str(config), *arguments)
    assert done.returncode != 0 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "runs").exists() and not (fake_slurm / "sbatch.called").exists()


def test_an_unknown_field_of_a_profile_is_named(tmp_path: Path, fake_slurm: Path, config: Path) -> None:
    (tmp_path / "p.yaml").write_text("partitoin: gpu\n")
    done = submit(tmp_path, fake_slurm, str(config), *COMMON, "--profile", "p.yaml")
    assert done.returncode == 1 and "partitoin" in done.stderr and "partition" in done.stderr


def test_without_slurm_the_message_says_so(tmp_path: Path, config: Path) -> None:
    done = submit(tmp_path, None, str(config), "run.dir=here", *COMMON)
    assert done.returncode == 1 and "there is no sbatch on PATH" in done.stderr


def test_what_slurm_refuses_leaves_nothing_behind(tmp_path: Path, fake_slurm: Path, config: Path) -> None:
    (fake_slurm / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n"
    )
    for sweep in ((), ("--sweep", "train.seed=1,2")):
        done = submit(tmp_path, fake_slurm, str(config), "run.dir=here", *COMMON, *sweep)
        assert done.returncode == 1 and "invalid partition" in done.stderr
        assert not (tmp_path / "here").exists(), "the same command, corrected, has to work"


def test_a_taken_directory_is_refused_and_resume_submits_it_again(
    tmp_path: Path, fake_slurm: Path, config: Path
) -> None:
    assert submit(tmp_path, fake_slurm, str(config), "run.dir=here", *COMMON).returncode == 0
    again = submit(tmp_path, fake_slurm, str(config), "run.dir=here", *COMMON)
    assert again.returncode == 1 and "submit --resume" in again.stderr
    resumed = submit(tmp_path, fake_slurm, "--resume", "here", "--nodes", "2-3", "--time", "30")
    assert resumed.returncode == 0, resumed.stderr
    called = (fake_slurm / "sbatch.called").read_text().split()
    script = tmp_path / "here/job/job.sbatch"
    assert called == ["--parsable", "--time=30", str(script)]
    # A range and --ntasks-per-node together give the fewest nodes.
    options = [line.removeprefix("#SBATCH ") for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    assert "--nodes=2-3" in options and not [option for option in options if "--ntasks" in option]
    assert JobFolder(tmp_path / "here").submissions() == ["4711", "4711"]


def test_resume_waits_for_the_jobs_it_is_told_to_and_no_others(tmp_path: Path, fake_slurm: Path, config: Path) -> None:
    """One of them may have failed meanwhile, and SLURM would have the job wait for ever."""
    assert submit(tmp_path, fake_slurm, str(config), "run.dir=here", *COMMON, "--after", "12").returncode == 0
    script = tmp_path / "here/job/job.sbatch"
    assert "#SBATCH --dependency=afterok:12\n" in script.read_text()
    before = script.read_text()
    dry = submit(tmp_path, fake_slurm, "--resume", "here", "--time", "30", "--after", "13", "--dry-run")
    assert {"#SBATCH --time=30", "#SBATCH --dependency=afterok:13"} <= set(dry.stdout.splitlines()), dry.stderr
    assert "--time=1:00:00" not in dry.stdout and "afterok:12" not in dry.stdout
    assert len(dry.stdout.splitlines()) == len(before.splitlines()) and script.read_text() == before
    assert submit(tmp_path, fake_slurm, "--resume", "here").returncode == 0
    assert "--dependency" not in script.read_text() and "#SBATCH --time=1:00:00\n" in script.read_text()
    assert (fake_slurm / "sbatch.called").read_text().split() == ["--parsable", str(script)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("configs/small.yaml", "train.steps=9"), "CONFIG, [SECTION.FIELD=VALUE ...]"),
        (("--profile", "p.yaml", "--doctor", "--nodes", "2"), "--profile, --doctor"),
        (("--tasks-per-node", "4", "--name", "b", "--no-requeue"), "--tasks-per-node, --name, --no-requeue"),
        (("--gpus-per-node", "0", "--sweep", "train.seed=1,2"), "--gpus-per-node, --sweep"),
    ],
)
def test_resume_refuses_what_it_would_not_heed(arguments: tuple[str, ...], named: str) -> None:
    refused = CliRunner().invoke(submit_command, ["--resume", "here", *arguments])
    assert refused.exit_code == 2 and f"as it was frozen, without {named}: it takes" in refused.output


def test_a_run_without_a_time_limit_that_gets_one_is_warned_before_it(
    tmp_path: Path, fake_slurm: Path, config: Path
) -> None:
    endless = ("--nodes", "2", "--gpus-per-node", "4", "--time", "UNLIMITED")
    assert submit(tmp_path, fake_slurm, str(config), "run.dir=here", *endless).returncode == 0
    assert "--signal" not in JobFolder(tmp_path / "here").files.job_script.read_text()
    assert submit(tmp_path, fake_slurm, "--resume", "here", "--time", "1:00:00").returncode == 0
    assert {"--time=1:00:00", "--signal=USR1@180"} <= set((fake_slurm / "sbatch.called").read_text().split())
    shown = submit(tmp_path, fake_slurm, "--resume", "here", "--time", "UNLIMITED", "--dry-run")
    assert "#SBATCH --time=UNLIMITED" in shown.stdout and "--signal" not in shown.stdout


def test_resume_refuses_a_time_limit_that_leaves_no_time(tmp_path: Path, fake_slurm: Path, config: Path) -> None:
    assert submit(tmp_path, fake_slurm, str(config), "run.dir=here", *COMMON).returncode == 0
    done = submit(tmp_path, fake_slurm, "--resume", "here", "--time", "2")
    assert done.returncode == 1 and "--time=2 is 120 s, and warning_s=180 s" in done.stderr


@pytest.mark.parametrize("state", ["PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUE_HOLD"])
def test_what_slurm_has_not_done_with_is_not_submitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    folder = JobFolder(tmp_path)
    folder.path.mkdir()
    folder.add_submission("7")
    monkeypatch.setattr(slurm, "show_array", lambda job_id: [{"JobId": job_id, "JobState": state}])
    with pytest.raises(ConfigError, match=f"job 7 of .* is {state.lower()}"):
        check_idle(folder)
    monkeypatch.setattr(slurm, "show_array", lambda job_id: [{"JobId": job_id, "JobState": "NODE_FAIL"}])
    check_idle(folder)


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("3", 180),
        ("2:30", 180),  # SLURM counts begun minutes
        ("1:02:03", 3780),
        ("1-2", 93600),
        ("1-2:3", 93780),
        ("1-0:0:1", 86460),
        ("0", None),
        ("UNLIMITED", None),
    ],
)
def test_time_limits_are_read_as_sbatch_reads_them(limit: str, seconds: int | None) -> None:
    assert time_limit_s(limit) == seconds


def test_a_time_limit_leaves_time_before_the_warning() -> None:
    check_time_limit("5", 180)
    check_time_limit("1", 0)
    check_time_limit("UNLIMITED", 180)
    with pytest.raises(ConfigError, match=r"--time=4 .*warning_s=180 .*more than 4 minutes"):
        check_time_limit("4", 180)


def test_the_example_profile_names_documents_that_are_there() -> None:
    root = Path(__file__).parents[2]
    named = re.findall(r"docs/[\w-]+\.md", (root / "slurm/profiles/example.yaml").read_text())
    assert named and all((root / name).is_file() for name in named), named


def test_the_example_profile_is_valid_and_names_every_field() -> None:
    import yaml

    from unipool_dist.jobs.profile import Profile, load_profile

    path = Path(__file__).parents[2] / "slurm/profiles/example.yaml"
    load_profile(path)
    assert set(yaml.safe_load(path.read_text())) == set(Profile.model_fields)


def test_status_of_a_submitted_run_that_waits(tmp_path: Path, fake_slurm: Path, config: Path) -> None:
    assert submit(tmp_path, fake_slurm, str(config), "run.dir=here", *COMMON).returncode == 0
    (fake_slurm / "scontrol").write_text(
        "#!/bin/sh\n"
        "echo 'JobId=4711 JobName=tiny JobState=PENDING Reason=Resources Restarts=0 EndTime=Unknown NodeList='\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "unipool_dist", "status", "here", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{fake_slurm}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    (state,) = json.loads(done.stdout)
    assert (state["job_state"], state["reason"], state["job_id"], state["step"]) == (
        "PENDING",
        "Resources",
        "4711",
        None,
    )


def test_frozen_paths_do_not_depend_on_where_the_job_runs(tmp_path: Path, fake_slurm: Path, config: Path) -> None:
    (tmp_path / "zero.json").write_text((Path(__file__).parents[2] / "ds_configs/zero0.json").read_text())
    done = submit(tmp_path, fake_slurm, str(config), "run.dir=here", "optimizer.deepspeed=zero.json", *COMMON)
    assert done.returncode == 0, done.stderr
    frozen = load_config(tmp_path / "here/job/config.yaml")
    assert frozen.optimizer.deepspeed == str(tmp_path / "here/job/deepspeed.json")
    assert Path(frozen.data.path).is_absolute()


@pytest.mark.parametrize(
    "sbatch",
    [
        "exec sleep 60",
        "echo sbatch: error: Batch job submission failed: Socket timed out on send/recv operation >&2; exit 1",
    ],
)
def test_no_answer_is_no_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Path, fake_slurm: Path, sbatch: str
) -> None:
    """SLURM may have taken the job: what it is made of stays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{fake_slurm}:{os.environ['PATH']}")
    (fake_slurm / "sbatch").write_text(f"#!/bin/sh\n{sbatch}\n")
    monkeypatch.setattr(slurm, "_PATIENCE_S", 0.5)
    done = CliRunner().invoke(submit_command, [str(config), "run.dir=here", *COMMON])
    assert isinstance(done.exception, slurm.NoAnswerError) and "submit --resume" in str(done.exception)
    assert JobFolder(tmp_path / "here").exists()


def test_a_folder_of_something_else_is_not_taken(tmp_path: Path, fake_slurm: Path, config: Path) -> None:
    (tmp_path / "here/logs").mkdir(parents=True)
    (tmp_path / "here/logs/mine").touch()
    done = submit(tmp_path, fake_slurm, str(config), "run.dir=here", *COMMON)
    assert done.returncode == 1 and "here/logs is there, and not of a run" in done.stderr
    assert (tmp_path / "here/logs/mine").exists()
