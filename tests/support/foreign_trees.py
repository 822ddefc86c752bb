"""Random trees of what users have put where commands write, and the commands, as far as they touch the disk.

Each command is the program's own code from its checks to its last rename; what it would compute is made up.

As a program (``python -m tests.support.foreign_trees FOLDER FIRST_SEED COUNT``) it does the same with mount points,
in the mount namespace that it is started in.
"""

from __future__ import annotations

import atexit
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from click.testing import CliRunner
from matplotlib.figure import Figure

from tests.checkpoint.test_directory import write as write_checkpoint
from tests.checkpoint.test_run_directory import make_run, start
from tests.data.test_place import made_up, put
from tests.support.trees import snapshot
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.offline import export as export_module
from unipool_dist.checkpoint.offline import import_model as import_module
from unipool_dist.checkpoint.offline import reshard as reshard_module
from unipool_dist.cli import cli
from unipool_dist.cli.checkpoint import interchange, resharding
from unipool_dist.cli.experiment_places import check_places
from unipool_dist.config import Config, Plan, dump_config, load_config, resolve
from unipool_dist.errors import UnipoolError
from unipool_dist.experiment.planned import Run
from unipool_dist.experiment.specification import Experiment, freeze_experiment
from unipool_dist.jobs.freeze import freeze_config
from unipool_dist.report import page
from unipool_dist.report.pictures import Picture
from unipool_dist.run.lock import RunLock

RUN_PLACES = (
    *("", "config.yaml", "metrics.jsonl", "expert_usage.jsonl", "data_summary.json", "heartbeat.json", ".lock"),
    *("loss_curve.png", "tensorboard", "tensorboard/events.1", "tensorboard/events.out.tfevents.1.host.1.0"),
    *("probe", "probe/probe.json", "probe/distinct.png", "watchdog", "watchdog/dog.jpg", "notes.txt", "cache/x"),
    *("checkpoints", "checkpoints/best", "checkpoints/aside", "checkpoints/aside/step-00000001.damaged"),
    *("checkpoints/step-00000004", "checkpoints/step-00000010/notes", "checkpoints/step-00000000.writing"),
    *("checkpoints/step-00000010.deleting", "checkpoints.deleting/x", "logs", "logs/train.log"),
    *("job", "job/config.yaml", "job/mine", "job/.lock"),
)
PLACES = (
    *(f"run/{name}" for name in RUN_PLACES),
    *(f"experiment/v/seed-1/{name}" for name in RUN_PLACES),
    *("corpus", "corpus/manifest.json", "corpus/notes", "corpus/downloads/x", "corpus/cache/x"),
    *("corpus.partial", "corpus.partial/x", "corpus.partial/.lock", "corpus.replaced", "corpus.replaced/x"),
    *("model", "model.writing", "model.writing/x", "model.writing/.lock", "model.writing/model.safetensors"),
    *("experiment", "experiment/experiment.yaml", "report.html", "figures", "figures/curves.png", "figures/mine.png"),
)
KINDS = ("file", "folder", "link to file", "link to folder", "link to nothing", "mount")
THESIS = "years of work"

Thing = tuple[str, str]
"""A place, and the kind of thing that somebody has put there."""


def plant(top: Path, things: list[Thing]) -> dict[str, object]:
    """Make the tree below ``top``, as far as one thing leaves room for the next; what it is then, by path."""
    (top / "mine" / "folder").mkdir(parents=True)
    (top / "mine" / "file").write_text(THESIS)
    (top / "mine" / "folder" / "thesis.tex").write_text(THESIS)
    planted = ["mine", "mine/file", "mine/folder", "mine/folder/thesis.tex"]
    for place, kind in things:
        path = top / place
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.resolve().is_relative_to(top / "mine"):
                continue
            _put(path, kind, top / "mine")
            planted += [place, f"{place}/thesis.tex"]
    found = snapshot(top)
    return {name: found[name] for name in planted if name in found}


def _put(path: Path, kind: str, mine: Path) -> None:
    if kind == "file":
        with path.open("x") as file:
            file.write(THESIS)
    elif kind.startswith("link"):
        path.symlink_to(mine / kind.removeprefix("link to "))
    else:
        path.mkdir()
        if kind == "mount":
            subprocess.run(["mount", "--bind", mine / "folder", path], check=True)
        else:
            (path / "thesis.tex").write_text(THESIS)


def check(top: Path, things: list[Thing], command: str, *, begun: bool) -> None:
    """Let ``command`` run over the tree: it may refuse, and may not change anything of it.

    Args:
        begun: there is something of an earlier command too.
    """
    if begun:
        shutil.copytree(_begun(), top, dirs_exist_ok=True)
    before = plant(top, things)
    with suppress(UnipoolError, OSError):
        COMMANDS[command](top)
    after = snapshot(top)
    changed = {name: (value, after.get(name, "gone")) for name, value in before.items() if after.get(name, 0) != value}
    assert not changed, (command, things, changed)


@cache
def _begun() -> Path:
    """A run and a corpus, to be copied."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    make_run(folder / "run", steps=(10,))
    put(folder / "corpus", made_up(1))
    return folder


def _export(top: Path) -> None:
    def written(located: object, draft: Path, *others: object) -> tuple[Any, None]:
        (draft / "model.safetensors").write_text("weights")
        dump_config(Config(), draft / "config.yaml")
        return SimpleNamespace(files={}, step=4, num_parameters=1, dtype="fp32", tokenizer_files=()), None

    with (
        mock.patch.object(export_module, "_write", written),
        mock.patch.object(export_module, "planned", return_value=_plan()),
        mock.patch.object(interchange, "find"),
        mock.patch.object(interchange, "check_contents"),
    ):
        _call("checkpoint", "export", top / "run", top / "model")


def _plan() -> Plan:
    """The plan of the run that is exported."""
    return resolve(load_config(None, ["model.vocab_size=128"]), 1)


def _import(top: Path) -> None:
    def imported(model: object, run_dir: Path, bar: object) -> CheckpointDirectory:
        import_module.check_is_no_run(run_dir)
        return _saved(run_dir, 0)

    with (
        mock.patch.object(import_module, "open_model", return_value=SimpleNamespace(num_parameters=1)),
        mock.patch.object(import_module, "import_model", imported),
    ):
        _call("checkpoint", "import", top / "any", top / "run")


def _reshard(top: Path) -> None:
    located = SimpleNamespace(progress=SimpleNamespace(step=4), config=Config(), folder=top)
    with (
        mock.patch.object(resharding, "find", return_value=located),
        mock.patch.object(resharding, "check_contents"),
        mock.patch.object(reshard_module, "reshard", lambda located, out, *others: _saved(out, 4)),
    ):
        _call("checkpoint", "reshard", top / "any", top / "run")


def _saved(run_dir: Path, step: int) -> CheckpointDirectory:
    directory = CheckpointDirectory(run_dir)
    write_checkpoint(directory, step)
    if not (run_dir / "config.yaml").exists():
        dump_config(load_config(None, ["run.dir=elsewhere"]), run_dir / "config.yaml")
    return directory


def _retention(top: Path) -> None:
    start(top / "run", resume=True)
    directory = CheckpointDirectory(top / "run")
    directory.clean_up()
    for step in directory.steps():
        with suppress(UnipoolError, OSError):
            directory.delete(step)
    write_checkpoint(directory, 10)


def _report(top: Path) -> None:
    pictures = {"curves": [Picture("curves", "", Figure(), "", "")]}
    with (
        mock.patch.object(page, "collect"),
        mock.patch.object(page, "_versions"),
        mock.patch.object(page, "_pictures", return_value=pictures),
        mock.patch.object(page, "render", return_value="<!DOCTYPE html>"),
    ):
        page.write_page(top, top / "report.html", mock.Mock(), [], mock.Mock())


def _experiment(top: Path) -> None:
    (top / "mine.yaml").write_text("an experiment")
    experiment = Experiment.model_validate({"output": str(top / "experiment"), "seeds": [1], "variants": {"v": {}}})
    run = Run("v", 1, top / "experiment" / "v" / "seed-1", Config())
    check_places(experiment, top / "mine.yaml", [run])
    freeze_experiment(experiment, top / "mine.yaml")
    with RunLock(run.directory / "job"):
        freeze_config(run.directory, run.config)
        (run.directory / "logs").mkdir(exist_ok=True)
        with (run.directory / "logs" / "train.log").open("ab") as log:
            log.write(b"started\n")
        start(run.directory, resume=True)


def _call(*arguments: object) -> None:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception


COMMANDS: dict[str, Callable[[Path], None]] = {
    "train": lambda top: start(top / "run"),
    "train --resume": lambda top: start(top / "run", resume=True),
    "train --overwrite": lambda top: start(top / "run", overwrite=True),
    "lock": lambda top: RunLock(top / "run").acquire(),
    "retention": _retention,
    "prepare": lambda top: put(top / "corpus", made_up(2)),
    "export": _export,
    "import": _import,
    "reshard": _reshard,
    "report": _report,
    "experiment": _experiment,
}


def random_case(seed: int) -> tuple[list[Thing], str, bool]:
    """Things, a command, and whether anything is begun: at least one thing is mounted."""
    chance = random.Random(seed)
    things = [(chance.choice(PLACES), chance.choice(KINDS)) for _ in range(chance.randint(0, 4))]
    things.insert(chance.randint(0, len(things)), (chance.choice(PLACES), "mount"))
    return things, chance.choice(list(COMMANDS)), chance.random() < 0.6


if __name__ == "__main__":
    folder, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    for seed in range(first, first + count):
        (folder / str(seed)).mkdir()
        case_things, case_command, case_begun = random_case(seed)
        check(folder / str(seed), case_things, case_command, begun=case_begun)
    print(f"{count} trees with mount points")
