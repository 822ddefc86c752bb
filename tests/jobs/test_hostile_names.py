"""No name and no value that comes into a script is run, cuts an option, or becomes a line of it.

Scripts are rendered with hostile names and then run, with nothing on PATH but programs that write down how they were
called: nothing else may have run, and every value has to arrive unchanged.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Command
from tests.support.hostile_names import HOSTILE, hostile_names
from unipool_dist.base.printable import printable
from unipool_dist.base.programs import shown
from unipool_dist.errors import ConfigError, UnipoolError
from unipool_dist.jobs.folder import JobFolder
from unipool_dist.jobs.freeze import _write_program
from unipool_dist.jobs.profile import Profile, parse_profile
from unipool_dist.jobs.render import Resources, options, overridden, render_script
from unipool_dist.jobs.script_text import one_option, sbatch_option
from unipool_dist.jobs.submission import check_path
from unipool_dist.jobs.sweep import folder_name

SEED = 20250
RESOURCES = Resources("job", "1", 2, 0, "1:00:00")
SIZE = ("--nodes=1", "--tasks-per-node=2", "--time=1:00:00", "--dry-run")


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """A folder with ``python`` and ``module``, which append their name, arguments and ``$VALUE`` to ``called``."""
    folder = tmp_path / "stubs"
    folder.mkdir()
    for name in ("python", "module"):
        (folder / name).write_text(
            f'#!/bin/sh\nprintf "%s\\0" {name} "$@" "VALUE=$VALUE" "PYTHONPATH=$PYTHONPATH" "" >>{folder}/called\n'
        )
        (folder / name).chmod(0o755)
    return folder


def ran(stubs: Path, tmp_path: Path, *command: str | Path) -> list[list[str]]:
    """The calls that ``command`` made; it has to succeed, and to leave the empty folder that it runs in empty."""
    called, empty = stubs / "called", tmp_path / "empty"
    called.unlink(missing_ok=True)
    empty.mkdir(exist_ok=True)
    done = subprocess.run(command, cwd=empty, env={"PATH": str(stubs)}, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not list(empty.iterdir()), "something was run"
    assert not done.stdout and not done.stderr, "something was run"
    text = called.read_bytes().decode("utf-8", "surrogateescape")
    return [call.split("\0") for call in text.split("\0\0")[:-1]]


def read_by_sbatch(script: str) -> list[str]:
    """The options in a script, as sbatch of SLURM 22.05 reads them: see ``_get_argument`` in its source."""
    words: list[str] = []
    for line in script.split("\n"):
        if not line.startswith("#"):
            break
        if line.startswith("#SBATCH"):
            words += _words(line.removeprefix("#SBATCH"))
    return words


def _words(line: str) -> list[str]:
    words: list[str] = []
    word, quote, escaped = "", "", False
    for char in line + " ":
        if escaped:
            word, escaped = word + char, False
        elif char == "\\":
            escaped = True
        elif quote:
            quote, word = ("", word) if char == quote else (quote, word + char)
        elif char in "\"'":
            quote = char
        elif char == "#":
            break
        elif char in " \t\n\v\f\r":
            words, word = [*words, word] if word else words, ""
        else:
            word += char
    return words


FIELDS = ("partition", "account", "qos", "constraint", "reservation", "memory_per_node")


def with_name_everywhere(folder: JobFolder, name: str) -> tuple[Resources, Profile]:
    """A request with ``name`` in every place that takes it; options of sbatch refuse what no quotes can keep."""
    fields: dict[str, Any] = {"environment": {"VALUE": name}, "modules": [name]}
    if printable(name) == name and len(name) < 4000:
        return replace(RESOURCES, name=name), Profile.model_validate(fields | dict.fromkeys(FIELDS, name))
    for resources, profile in ((replace(RESOURCES, name=name), Profile()), (RESOURCES, Profile(account=name))):
        with pytest.raises(ConfigError, match="an option of sbatch"):
            options(folder, resources, profile)
    return RESOURCES, Profile.model_validate(fields)


def test_a_script_with_hostile_names_runs_nothing_and_changes_none(tmp_path: Path, stubs: Path) -> None:
    folder = JobFolder(tmp_path / "run")
    python = str(stubs / "python")
    for name in (name for name in hostile_names(SEED, 60) if "\ud800" not in name):
        resources, profile = with_name_everywhere(folder, name)
        command = ["unipool-dist", "submit", name]
        script = render_script(folder, resources, profile, python=python, command=command)
        (tmp_path / "script").write_text(script, encoding="utf-8", newline="")
        head = script.split("\nset -euo pipefail\n")[0]
        assert all(line.startswith("#") for line in head.split("\n")), name
        expected = [f"--job-name={resources.name}", "--nodes=1", "--ntasks-per-node=2", "--time=1:00:00"]
        given = {"mem": profile.memory_per_node, "partition": profile.partition, "account": profile.account}
        given |= {"qos": profile.qos, "constraint": profile.constraint, "reservation": profile.reservation}
        expected += [f"--{option}={value}" for option, value in given.items() if value is not None]
        assert read_by_sbatch(script)[: len(expected)] == expected, name
        assert read_by_sbatch(script)[len(expected) :][:1] == ["--signal=USR1@180"], name
        purge, module, started = ran(stubs, tmp_path, "/bin/bash", tmp_path / "script")
        assert purge[:2] == ["module", "purge"] and module[:3] == ["module", "load", name]
        assert started[:4] == ["python", "-m", "unipool_dist.jobs", str(folder.run_dir)]
        assert started[4] == f"VALUE={name}", name


def test_the_frozen_program_runs_nothing_of_its_own_path(tmp_path: Path, stubs: Path) -> None:
    """``run.dir`` is data; the folder that it names is in the program that every task of the job runs."""
    for number, name in enumerate(HOSTILE):
        if "\0" in name or len(name.encode("utf-8", "replace")) > 200 or "\ud800" in name:
            continue
        run_dir = tmp_path / str(number) / name.replace("/", "_")
        folder = JobFolder(run_dir)
        folder.path.mkdir(parents=True)
        _write_program(folder, str(stubs / "python"))
        (call,) = ran(stubs, tmp_path, folder.path / "bin" / "unipool-dist", "train", name)
        assert call[:5] == ["python", "-m", "unipool_dist", "train", name]
        assert call[6] == f"PYTHONPATH={folder.files.code}"


@pytest.mark.parametrize("name", [name for name in HOSTILE if not {*name} - {*map(chr, range(32, 127))}])
def test_an_interpreter_of_any_name_is_one_word(tmp_path: Path, stubs: Path, name: str) -> None:
    if "/" in name or len(name) > 200 or name in ("..", " "):
        return
    (stubs / "python").rename(stubs / name)
    folder = JobFolder(tmp_path / "run")
    folder.path.mkdir(parents=True)
    _write_program(folder, str(stubs / name))
    (call,) = ran(stubs, tmp_path, folder.path / "bin" / "unipool-dist", "x")
    assert call[:4] == ["python", "-m", "unipool_dist", "x"]


def test_what_was_typed_is_one_line_that_bash_takes_as_the_same_words(tmp_path: Path) -> None:
    for name in hostile_names(SEED + 1, 40):
        line = shown(["printf", "%s\\0", name, "end"])
        assert len(line.splitlines()) == 1 and "\x1b" not in line
        if "\ud800" in name:
            continue
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, env={"LC_ALL": "C.UTF-8"})
        assert done.stdout.decode() == f"{name}\0end\0", line


@pytest.mark.parametrize("name", ["x\ntouch PWNED", "a\x1b[2J", "\u202eabc", "x" * 5000, "a\rb"])
def test_names_that_no_quotes_can_keep_are_refused(
    unipool_dist: Command, tmp_path: Path, corpus_config: Path, name: str
) -> None:
    ended = unipool_dist("submit", corpus_config, *SIZE, "--name", name)
    assert ended.status == 1 and "--job-name=" in ended.err and "sbatch" in ended.err
    assert len(ended.err.splitlines()) == 1 and "\x1b" not in ended.err


@pytest.mark.parametrize("name", ["two words.yaml", "a$(touch PWNED).yaml", "it's #1.yaml", 'say "x".yaml'])
def test_the_name_of_a_configuration_is_quoted(unipool_dist: Command, corpus_config: Path, name: str) -> None:
    path = corpus_config.with_name(name)
    corpus_config.rename(path)
    ended = unipool_dist("submit", path, *SIZE)
    assert ended.status == 0, ended.err
    assert read_by_sbatch(ended.out)[0] == f"--job-name={path.stem}"


@pytest.mark.parametrize(
    "override",
    ["data.weights={prose: 1,\n sums: 2}", "optimizer.lr=1e-3 #\n#SBATCH --account=someone-else", "train.steps=9 \r#x"],
)
def test_an_override_of_several_lines_stays_in_the_comment(
    unipool_dist: Command, corpus_config: Path, override: str
) -> None:
    ended = unipool_dist("submit", corpus_config, override, *SIZE)
    if ended.status:  # refused as a configuration
        assert ended.err.startswith("error: ")
        return
    assert ended.out.startswith("#!/usr/bin/env bash\n# Rendered by `unipool-dist submit ")
    assert ended.out.split("\n")[2].startswith("# To start it again")
    assert len(read_by_sbatch(ended.out)) == ended.out.count("#SBATCH --") - ended.out.count("#SBATCH --account")


@pytest.mark.parametrize(
    "after", [*(name for name in HOSTILE if "\ud800" not in name), "1,2", "1:", ":1", "1 ", "12_", "1" * 30]
)
def test_jobs_to_wait_for_are_numbers(unipool_dist: Command, after: str) -> None:
    ended = unipool_dist("submit", "c.yaml", f"--after={after}", *SIZE)
    assert ended.status == 2 and "give the numbers of jobs" in ended.err


@pytest.mark.parametrize("after", ["1", "12:13", "12_3:14", "12_*"])
def test_jobs_to_wait_for_reach_sbatch(unipool_dist: Command, corpus_config: Path, after: str) -> None:
    ended = unipool_dist("submit", corpus_config, f"--after={after}", *SIZE)
    assert f"--dependency=afterok:{after}" in read_by_sbatch(ended.out)


@pytest.mark.parametrize("nodes", ["²", "\u0661", "9" * 5000, "1-", "-1", "0", "1-1000000000", "2-1", "1\n", ""])
def test_numbers_of_nodes(unipool_dist: Command, corpus_config: Path, nodes: str) -> None:
    ended = unipool_dist("submit", corpus_config, "--nodes", nodes, *SIZE[1:])
    assert ended.status in (1, 2) and "nodes" in ended.err


@pytest.mark.parametrize("path", ["a b", "a\nb", "a:b", "a%jb", "a'b", 'a"b', "a\\b", "a\x1bb", "\u202ea"])
def test_run_directories_that_mean_more_than_a_path_are_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="choose a path without"):
        check_path(f"runs/{path}")


def test_folders_of_a_sweep_have_plain_names() -> None:
    for number, name in enumerate(hostile_names(SEED + 2, 60)):
        folder = folder_name(number, [f"train.dtype={name}"])
        assert not set(folder) & set("/ $`'\"\\;&|<>(){}[]*?!#~%\n\r\t\x1b:") and len(folder.encode()) <= 255
        assert folder.startswith(f"{number}-train.dtype=")
    assert folder_name(3, ["train.seed=1", "optimizer.lr=1e-3"]) == "3-train.seed=1-optimizer.lr=1e-3"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("--mail-type=END", ["--mail-type=END"]),
        ('--comment="two words"', ["--comment=two words"]),
        ("-p gpu", ["-p", "gpu"]),
        ("--comment=a'b c'#d", ["--comment=ab c#d"]),
    ],
)
def test_an_option_of_a_profile_is_read_as_written(tmp_path: Path, written: str, read: list[str]) -> None:
    script = render_script(JobFolder(tmp_path), RESOURCES, Profile(sbatch=[written]), python="p", command=[])
    assert read_by_sbatch(script)[-len(read) :] == read


@pytest.mark.parametrize(
    "written",
    [
        "--comment=two words",
        "--a --b",
        "-p gpu -A lab",
        "-p -A",
        "--x\ntouch PWNED",
        "--x\n#SBATCH --wrap=y",
        "--x='",
        "",
    ],
)
def test_several_options_in_one_item_are_refused(written: str) -> None:
    with pytest.raises(ConfigError, match="one option in each item"):
        one_option(written)


def test_a_template_of_the_users_quotes_what_it_does_not_mark(tmp_path: Path, stubs: Path) -> None:
    template = tmp_path / "mine.j2"
    template.write_text(
        "#!/bin/bash\n# {{ command }}\n{% for option in options %}#SBATCH {{ option }}\n{% endfor %}"
        "{% for line in setup %}{{ line }}\n{% endfor %}{{ python }} {{ run_dir | quote }} {{ environment.X }}\n"
    )
    profile = Profile(environment={"X": "a\n$(touch PWNED)"}, setup=["VALUE=$((1 + 1)); export VALUE"])
    folder = JobFolder(tmp_path / "run")
    command = ["unipool-dist", "a\ntouch PWNED"]
    script = render_script(folder, RESOURCES, profile, python=str(stubs / "python"), command=command, template=template)
    (tmp_path / "script").write_text(script)
    (call,) = ran(stubs, tmp_path, "/bin/bash", tmp_path / "script")
    assert call[:4] == ["python", str(folder.run_dir), "a\n$(touch PWNED)", "VALUE=2"]


def test_an_image_is_no_option() -> None:
    with pytest.raises(ConfigError, match="is an option"):
        parse_profile({"container": {"runtime": "apptainer", "image": "--bind=/:/x"}}, "p.yaml")


def test_values_with_odd_line_ends_stay_as_they_are_when_options_are_replaced() -> None:
    script = "#!/bin/bash\n#SBATCH --time=1\nexport X='a\x0bb\x85c\u2028d'\n"
    assert overridden(script, ["--time=2"]) == script.replace("--time=1", "--time=2")


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"])
def test_launchers_run_nothing_of_their_variables(tmp_path: Path, variable: str) -> None:
    """bash runs what stands in an array's index in arithmetic."""
    root = Path(__file__).parents[2]
    variables = {"PATH": os.environ["PATH"], variable: "a[$(touch PWNED)]"}
    done = subprocess.run(
        [root / "launchers/free_port.sh"], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and f"{variable}=" in done.stderr and not list(tmp_path.iterdir())


def test_a_container_gets_no_folder_that_is_more_than_one(
    tmp_path: Path, corpus_config: Path, unipool_dist: Command
) -> None:
    profile = tmp_path / "p.yaml"
    profile.write_text("container: {runtime: pyxis, image: i}\n")
    ended = unipool_dist("submit", corpus_config, f"--profile={profile}", *SIZE, "run.dir=runs/a,b")
    assert ended.status == 1 and "cannot be mounted in a container" in ended.err


@pytest.mark.parametrize("value", ["a\0b", "\ud800", "a\udc80"])
def test_values_that_no_script_can_hold_are_refused(tmp_path: Path, value: str) -> None:
    profile = Profile(environment={"VALUE": value})
    with pytest.raises(ConfigError, match="no such value"):
        render_script(JobFolder(tmp_path), RESOURCES, profile, python="p", command=[])


def test_options_are_refused_with_their_name() -> None:
    with pytest.raises(UnipoolError, match=r"^--account=a\\nb: an option of sbatch"):
        sbatch_option("--account=a\nb")
