"""Run directories: what is the user's stays, what is a run's is told by name and form, and nothing is half begun."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.checkpoint.test_directory import write
from tests.support.trees import snapshot
from unipool_dist.base.belongings import ForeignError
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.cli import cli
from unipool_dist.cli import train as train_module
from unipool_dist.config import Config, load_config
from unipool_dist.errors import ConfigError, UnipoolError
from unipool_dist.observe.figures import LossCurves, loss_figure, save
from unipool_dist.observe.metrics import MetricsWriter
from unipool_dist.observe.tensorboard_sink import TensorBoardSink
from unipool_dist.run.beginning import begin_run_dir, check_run_dir, continue_run_dir
from unipool_dist.run.heartbeat import HeartbeatWriter
from unipool_dist.run.lock import RunLock
from unipool_dist.run.start import Start

TRAINED = {"step": 1, "loss": 2.0, "aux_loss": 0.1, "grad_norm": 1.0, "lr": 0.1, "tokens": 64, "tokens_per_s": 9.0}


def make_run(path: Path, *, steps: tuple[int, ...] = (10, 20)) -> None:
    """A run as training leaves it, without the training."""
    path.mkdir(parents=True, exist_ok=True)
    continue_run_dir(path, load_config(None, [f"run.dir={path}"]), {"text": 3.0})
    RunLock(path).acquire()
    for sink in (MetricsWriter(path), TensorBoardSink(path / "tensorboard", resume_from_step=None)):
        sink.train(TRAINED)
        sink.close()
    HeartbeatWriter(path, steps=30, resumed_from=0).close()
    save(loss_figure(LossCurves(), "run"), path / "loss_curve.png")
    stuck = path / "watchdog" / "2026-01-02T03-04-05"
    stuck.mkdir(parents=True)
    (stuck / "summary.txt").write_text("rank 1 is stuck")
    (path / "probe").mkdir()
    (path / "probe" / "probe.json").write_text(
        json.dumps({"format_version": 1, "randomized": {}, "layers_using": [], "lift": []})
    )
    for step in steps:
        write(CheckpointDirectory(path), step)


def as_earlier_versions_left_it(path: Path) -> None:
    """Without the marks that files have had since."""
    for events in (path / "tensorboard").iterdir():
        events.rename(events.with_name(events.name.removesuffix(".unipool-dist")))
    figure = path / "loss_curve.png"
    figure.write_bytes(figure.read_bytes().replace(b"Creator\0unipool-dist", b"Creator\0another-tool"))


def start(path: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """What a start does to the run directory, without the training; one that goes on from a checkpoint checks alone."""
    check_run_dir(path, overwrite=overwrite, resume=resume)
    if not (resume and CheckpointDirectory(path).steps()):
        begin_run_dir(path, Config(), {}, same_run=resume)


FOREIGN = {
    "checkpoints/epoch=3.ckpt": "weights",
    "checkpoints/best/model.safetensors": "weights",
    "checkpoints/step-00000100/thesis.tex": "years of work",
    "checkpoints/step-00000100": "weights",
    "checkpoints/step-00000100.writing/thesis.tex": "years of work",
    "checkpoints": "a file",
    "tensorboard/events.1": "events",
    "tensorboard/events.out.tfevents.1700000000.host.1.0": "of another program" * 50,
    "tensorboard/events.out.tfevents.1700000000.host.1.1": "years of work",
    "tensorboard": "a file",
    "probe/results.csv": "1,2",
    "probe/probe.json": "{}",
    "probe/distinct.png": "an image",
    "watchdog/dog.jpg": "an image",
    "watchdog/2026-01-02T03-04-05/dog.jpg": "an image",
    "metrics.jsonl": '{"loss": 1}\n',
    "expert_usage.jsonl": '{"step": 1}\n',
    "data_summary.json": "[]",
    "heartbeat.json": '{"beats": 60}',
    "loss_curve.png": "an image",
    "config.yaml": "# my experiments\nmodel: {hidden_size: 32}\n",
    "metrics.jsonl/2025": "a folder",
}


def put(path: Path, name: str) -> None:
    """The foreign thing of that name."""
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).write_text(FOREIGN[name])


@pytest.mark.parametrize("name", FOREIGN)
def test_a_start_refuses_what_is_in_its_way_and_changes_nothing(tmp_path: Path, name: str) -> None:
    put(tmp_path, name)
    (tmp_path / "notes.txt").write_text("no hindrance")
    before = snapshot(tmp_path)
    for flags in ({}, {"overwrite": True}, {"resume": True}):
        if flags == {"resume": True} and name.startswith("watchdog/"):
            continue  # what is in there stays anyway
        with pytest.raises(ConfigError, match="has not made") as refused:
            start(tmp_path, **flags)
        assert str(tmp_path / name.split("/")[0]) in str(refused.value)
        with pytest.raises(ForeignError, match="has not made"):
            begin_run_dir(tmp_path, Config(), {}, same_run="resume" in flags)
        assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", [name for name in FOREIGN if "/" in name and not name.startswith("metrics")])
def test_a_run_with_something_else_in_its_folders_is_not_overwritten(tmp_path: Path, name: str) -> None:
    make_run(tmp_path)
    if (tmp_path / name).exists():
        (tmp_path / name).unlink()
    put(tmp_path, name)
    before = snapshot(tmp_path)
    with pytest.raises(ConfigError, match="has not made"):
        start(tmp_path, overwrite=True)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("old", [False, True], ids=["now", "before"])
def test_overwriting_takes_all_of_a_run_and_nothing_else(tmp_path: Path, old: bool) -> None:
    make_run(tmp_path)
    CheckpointDirectory(tmp_path).set_aside(20, "superseded")
    if old:
        as_earlier_versions_left_it(tmp_path)
    (tmp_path / "notes.txt").write_text("no hindrance")
    before = snapshot(tmp_path)
    with pytest.raises(ConfigError, match="already holds a run; pass --resume"):
        start(tmp_path)
    start(tmp_path, resume=True)
    assert snapshot(tmp_path) == before
    start(tmp_path, overwrite=True)
    aside = {name for name in before if name.startswith("checkpoints/aside")}
    kept = {"notes.txt", ".lock", "checkpoints", *aside}
    assert snapshot(tmp_path).keys() == {*kept, "config.yaml", "data_summary.json"}
    assert all(snapshot(tmp_path)[name] == before[name] for name in kept)


@pytest.mark.parametrize("old", [False, True], ids=["now", "before"])
def test_a_resume_without_a_checkpoint_begins_and_keeps_what_was_set_aside(tmp_path: Path, old: bool) -> None:
    make_run(tmp_path, steps=(10,))
    went = CheckpointDirectory(tmp_path).set_aside(10, "damaged")
    if old:
        as_earlier_versions_left_it(tmp_path)
    start(tmp_path, resume=True)
    assert went.is_dir() and (tmp_path / "watchdog" / "2026-01-02T03-04-05" / "summary.txt").exists()
    assert not (tmp_path / "metrics.jsonl").exists() and not (tmp_path / "tensorboard").exists()


def test_files_cut_short_by_a_crash_are_still_the_runs(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "lo')
    (tmp_path / "expert_usage.jsonl").write_text("")
    start(tmp_path, overwrite=True)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_run_goes_on_beside_what_it_does_not_touch(tmp_path: Path) -> None:
    make_run(tmp_path)
    for name in ("checkpoints/epoch=3.ckpt", "tensorboard/events.1", "watchdog/dog.jpg", "probe/results.csv"):
        put(tmp_path, name)
    (CheckpointDirectory(tmp_path).folder(10) / "notes.txt").write_text("the one of the paper")
    before = snapshot(tmp_path)
    start(tmp_path, resume=True)
    assert snapshot(tmp_path) == before


def _checkpoints_elsewhere(run: Path, scratch: Path) -> None:
    (run / "checkpoints").rename(scratch / "checkpoints")
    (run / "checkpoints").symlink_to(scratch / "checkpoints")


def _one_checkpoint_elsewhere(run: Path, scratch: Path) -> None:
    CheckpointDirectory(run).folder(20).rename(scratch / "twenty")
    CheckpointDirectory(run).folder(20).symlink_to(scratch / "twenty")


def _folders_elsewhere(run: Path, scratch: Path) -> None:
    for name in ("tensorboard", "probe", "watchdog"):
        (run / name).rename(scratch / name)
        (run / name).symlink_to(scratch / name)


def _files_elsewhere(run: Path, scratch: Path) -> None:
    for name in ("metrics.jsonl", "config.yaml", "heartbeat.json"):
        (run / name).rename(scratch / name)
        (run / name).symlink_to(scratch / name)


def _all_of_it_elsewhere(run: Path, scratch: Path) -> None:
    run.rename(scratch / "run")
    run.symlink_to(scratch / "run")


@pytest.mark.parametrize(
    "move",
    [_checkpoints_elsewhere, _one_checkpoint_elsewhere, _folders_elsewhere, _files_elsewhere, _all_of_it_elsewhere],
)
def test_a_run_whose_parts_are_links_is_resumed_and_replaced(
    tmp_path: Path, move: Callable[[Path, Path], None]
) -> None:
    run, scratch = tmp_path / "run", tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "others.txt").write_text("of somebody")
    make_run(run)
    move(run, scratch)
    linked = {path: path.readlink() for path in (run, *run.iterdir()) if path.is_symlink() and path.is_dir()}
    before = snapshot(tmp_path)
    start(run, resume=True)
    assert snapshot(tmp_path) == before
    start(run, overwrite=True)
    assert CheckpointDirectory(run).steps() == [] and load_config(run / "config.yaml") == Config()
    assert {path: path.readlink() for path in linked} == linked, "links to folders stay in use"
    assert (scratch / "others.txt").exists()
    if move is _one_checkpoint_elsewhere:
        assert (scratch / "twenty" / "manifest.json").exists(), "unlinked, not followed"
    if move is _files_elsewhere:
        assert load_config(scratch / "config.yaml") != Config() and not (run / "config.yaml").is_symlink()


@pytest.mark.parametrize(
    "name", ["", "checkpoints", "checkpoints/step-00000030", "tensorboard", "probe", "metrics.jsonl", "config.yaml"]
)
@pytest.mark.parametrize("kind", ["dangling", "loop"])
def test_links_that_lead_nowhere_are_named_before_anything_is_done(tmp_path: Path, name: str, kind: str) -> None:
    run = tmp_path / "run"
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).symlink_to("nowhere" if kind == "dangling" else (run / name).name)
    before = snapshot(tmp_path)
    for flags in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(ConfigError, match="leads nowhere"):
            start(run, **flags)
        assert snapshot(tmp_path) == before
    (run / name).unlink()
    start(run)
    assert (run / "config.yaml").is_file(), "the failed starts left nothing that would hinder this one"


def test_a_lock_file_of_somebody_else_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("my notes on locks")
    with pytest.raises(ForeignError, match=r"\.lock"):
        RunLock(tmp_path).acquire()
    assert (tmp_path / ".lock").read_text() == "my notes on locks"
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").symlink_to("nowhere")
    with pytest.raises(ForeignError, match="leads nowhere"):
        RunLock(tmp_path).acquire()
    assert not (tmp_path / "nowhere").exists()


def test_to_resume_from_nothing_can_be_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no checkpoint in .*, and --resume=must asks for one"):
        check_run_dir(tmp_path / "runn", overwrite=False, resume=True, must_resume=True)
    assert not (tmp_path / "runn").exists()
    make_run(tmp_path / "run")
    check_run_dir(tmp_path / "run", overwrite=False, resume=True, must_resume=True)


@pytest.mark.parametrize(
    ("arguments", "start", "overrides"),
    [
        ([], Start(), ()),
        (["--resume"], Start(resume=True), ()),
        (["--resume", "train.steps=3"], Start(resume=True), ("train.steps=3",)),
        (["train.steps=3", "--resume", "train.seed=2"], Start(resume=True), ("train.steps=3", "train.seed=2")),
        (["--resume=must", "train.steps=3"], Start(resume=True, must_resume=True), ("train.steps=3",)),
        (["--resume=if-any"], Start(resume=True), ()),
        (["--from", "4"], Start(resume=True, from_step=4), ()),
        (["--resume=must", "--from", "4"], Start(resume=True, from_step=4), ()),
        (["--overwrite", "--", "train.steps=3"], Start(overwrite=True), ("train.steps=3",)),
    ],
)
@pytest.mark.parametrize("config_last", [False, True])
def test_resume_needs_no_value_wherever_it_stands(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    start: Start,
    overrides: tuple[str, ...],
    config_last: bool,
) -> None:
    (tmp_path / "c.yaml").write_text("{}\n")
    config = [str(tmp_path / "c.yaml")]
    if config_last and overrides:
        pytest.skip("CONFIG comes before the overrides")
    given: list[tuple[Start, list[str]]] = []

    def check(config: Config, world_size: int, start: Start) -> Config:
        given.append((start, []))
        return config

    monkeypatch.setattr(train_module, "check_before_start", check)
    monkeypatch.setattr("unipool_dist.run.launch.launch_local", lambda command, nproc: given.append((Start(), command)))
    line = (
        ["train", "--nproc", "2", *arguments, *config] if config_last else ["train", *config, "--nproc=2", *arguments]
    )
    assert CliRunner().invoke(cli, line, catch_exceptions=False).exit_code == 0
    (asked, _), (_, command) = given
    assert asked == start
    assert command[command.index("--") :] == ["--", *config, *overrides]
    monkeypatch.setattr("unipool_dist.run.worker.run_worker", lambda config, start, signals: given.append((start, [])))
    assert CliRunner().invoke(cli, command, catch_exceptions=False).exit_code == 0
    assert given[-1][0] == start, "the processes are asked for the same"


def test_resume_takes_no_other_value(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["train", str(tmp_path / "c.yaml"), "--resume=always"])
    assert result.exit_code == 2 and "must" in result.output


def test_an_empty_run_dir_is_not_the_current_directory() -> None:
    with pytest.raises(UnipoolError, match=r"run\.dir"):
        load_config(None, ["run.dir=''"])
