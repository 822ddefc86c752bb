"""Names, and other texts of one line that are not, for ``submit``; its script is looked at, and run."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.fuzz.forked import Outcome
from tests.fuzz.hostile import breakouts, text
from tests.fuzz.inputs import Input, InputClass, Material
from tests.fuzz.place import Place
from unipool_dist.base.printable import printable

VALID: dict[str, Any] = {
    "model": {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "sequence_length": 32},
    "pool": {"num_experts": 4},
    "data": {"path": "corpus"},
    "train": {"global_batch_size": 8},
    "run": {"dir": "runs/x"},
}
PROFILE_FIELDS = (
    *("partition", "account", "qos", "constraint", "reservation", "gpu_type", "memory_per_node", "network_interface"),
    *("modules", "environment", "sbatch", "srun", "container"),
)
OPTIONS = (
    *("job-name", "nodes", "ntasks-per-node", "gpus-per-node", "time", "signal", "output", "open-mode", "requeue"),
    *("no-requeue", "dependency", "array", "export", "partition", "account", "qos", "constraint", "reservation", "mem"),
    *("cpus-per-task", "exclusive", "comment", "kill-on-invalid-dep", "gres"),
)
"""That a script may ask for; ``account`` only with a profile."""


def make(draw: random.Random, number: int, place: Place, material: Material) -> Input:
    (place.folder / "corpus").symlink_to(material.corpus)
    (place.folder / "c.yaml").write_text(yaml.safe_dump(VALID))
    _fake_slurm(place.folder / "bin")
    hostile = (draw.choice(breakouts(place)) if draw.random() < 0.6 else text(draw, place)).replace("\0", "")
    config, size = "c.yaml", ["--nodes=1", "--tasks-per-node=2", "--time=1:00:00"]
    more: list[str] = []
    ways = (
        "--name",
        "--after",
        "--time",
        "--nodes",
        "run.dir",
        "run.dir below",
        "in CONFIG",
        "sweep",
        "override",
        "CONFIG",
        "profile",
        "profile",
    )
    way = ways[number % len(ways)]
    if way in ("--name", "--after"):
        more = [f"{way}={hostile}"]
    elif way in ("--time", "--nodes"):
        size = [option for option in size if not option.startswith(way)] + [f"{way}={hostile}"]
    elif way == "run.dir":
        more = [f"run.dir={json.dumps(hostile)}"]
    elif way == "run.dir below":
        more = [f"run.dir={json.dumps('runs/' + hostile)}"]
    elif way == "in CONFIG":
        (place.folder / "c.yaml").write_text(yaml.safe_dump({**VALID, "run": {"dir": hostile}}))
    elif way == "sweep":
        more = [
            draw.choice(
                (f"--sweep=data.path=corpus,{hostile}", f"--sweep=train.dtype=fp32,{hostile}", f"--sweep={hostile}=1,2")
            )
        ]
    elif way == "override":
        more = [f"checkpoint.keep_last=2 #{hostile}"]
    elif way == "CONFIG":
        config = _named(place.folder, hostile)
    else:
        way, profile = _profile(draw, hostile)
        (place.folder / "p.yaml").write_text(yaml.safe_dump(profile))
        more = ["--profile=p.yaml"]
        size = ["--nodes=1", "--gpus-per-node=2", "--time=60"]
    if number == 0:
        more, hostile, size = [], "nothing", ["--nodes=1", "--tasks-per-node=2", "--time=60"]
    # A run may be anywhere its user says, so there it is only asked what the script would be.
    leads_out = way in ("run.dir", "run.dir below", "in CONFIG") and (hostile.startswith("/") or ".." in hostile)
    dry = [] if draw.random() < 0.4 and not leads_out else ["--dry-run"]
    options = [option for option in more if option.startswith("-")]
    overrides = [option for option in more if not option.startswith("-")]

    def check(outcomes: Sequence[Outcome]) -> list[str]:
        profiled = way.startswith("profile")
        interpreter = hostile if way == "profile container" else None
        return _script_faults(outcomes[-1], place, profiled=profiled, interpreter=interpreter)

    return Input(
        f"{way}: {hostile[:60]!r}",
        [["submit", *size, *options, *dry, "--", config, *overrides]],
        number == 0,
        check=check,
    )


def _named(folder: Path, hostile: str) -> str:
    """CONFIG's own name is hostile, as far as a file can have it."""
    name = f"{hostile.replace('/', '_')}.yaml"
    if len(os.fsencode(name)) <= 255:
        (folder / name).write_text(yaml.safe_dump(VALID))
    return name


def _profile(draw: random.Random, hostile: str) -> tuple[str, dict[str, Any]]:
    field = draw.choice(PROFILE_FIELDS)
    values: dict[str, Any] = {
        "modules": [hostile],
        "environment": draw.choice(({"X": hostile}, {hostile: "1"})),
        "sbatch": [f"--comment={hostile}"],
        "srun": [f"--hint={hostile}"],
        "container": draw.choice(
            (
                {"runtime": "apptainer", "image": hostile},
                {"runtime": "pyxis", "image": "i", "mounts": [f"/a:{hostile}"]},
                {"runtime": "apptainer", "image": "i", "python": hostile},
            )
        ),
    }
    return f"profile {field}", {field: values.get(field, hostile)}


def _fake_slurm(folder: Path) -> None:
    """``sbatch`` that says a number and does nothing."""
    folder.mkdir()
    for name, body in (("sbatch", "cat >/dev/null; echo 4711"), ("scontrol", "exit 1"), ("squeue", "exit 1")):
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)


def _script_faults(outcome: Outcome, place: Place, *, profiled: bool, interpreter: str | None) -> list[str]:
    """What is wrong with the script that was printed, or written: no bash, options that were not asked for, or cut."""
    if outcome.status != 0:
        return []
    written = sorted(place.folder.rglob("job/job.sbatch"))
    script = written[0].read_text() if written else outcome.stdout.decode(errors="surrogateescape")
    faults = [] if printable(script, lines=True) == script else ["control characters in the script"]
    head, _, body = script.partition("\nset -euo pipefail\n")
    for line in head.splitlines()[1:]:
        if line.startswith("#SBATCH"):
            faults += _option_faults(line.removeprefix("#SBATCH "), profiled)
        elif line and not line.startswith("#"):
            faults.append(f"a line before the first command: {line[:80]!r}")
    if not body:
        faults.append("no commands in the script")
    path = place.folder / "script.sh"
    quick = re.sub(r"^exec .* -m ", "exec echo -m ", script, flags=re.M).replace("module ", "true module ")
    path.write_text(quick, errors="surrogateescape")
    for command in (["bash", "-n", "script.sh"], ["bash", "script.sh"]):
        faults += _run_faults(command, place)
    for program in place.folder.rglob("job/bin/unipool-dist"):
        faults += _run_faults([str(program), "--help"], place, interpreter=interpreter)
    return faults


def _option_faults(option: str, profiled: bool) -> list[str]:
    try:
        words = shlex.split(option)
    except ValueError as error:
        return [f"an option with {error}: {option[:80]!r}"]
    name = words[0].removeprefix("--").partition("=")[0] if words else ""
    if len(words) != 1:
        return [f"an option that is cut at a blank: {option[:80]!r}"]
    return (
        []
        if name in OPTIONS and (profiled or name != "account")
        else [f"an option that nobody asked for: {option[:80]!r}"]
    )


def _run_faults(command: Sequence[str], place: Place, interpreter: str | None = None) -> list[str]:
    """That ``command`` fails; not finding the user's ``interpreter`` is right, if it is sought by its whole name."""
    done = subprocess.run(
        command, cwd=place.folder, capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=False
    )
    said = done.stderr.decode(errors="surrogateescape")
    if done.returncode == 0 or (interpreter and done.returncode in (126, 127) and f"exec: {interpreter}: " in said):
        return []
    return [f"{' '.join(command[:2])}: {printable(said)[-200:]}"]


SUBMISSIONS = InputClass("submissions", 320, make)
