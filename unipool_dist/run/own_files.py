"""Which files and folders in the directory of a run are this program's own."""

from __future__ import annotations

from pathlib import Path

from unipool_dist.base.belongings import Folder, Form, Kind, any_file
from unipool_dist.base.forms import either, head, is_lock, is_png, json_lines, json_object
from unipool_dist.base.run_directory import RunDirectory, WatchdogFolder
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.config import is_written_config
from unipool_dist.observe.files import EVENTS_SUFFIX, is_our_figure

_Names = RunDirectory  # of the class an entry is a name

_PROOFS: dict[str, Form] = {
    _Names.metrics.name: json_lines(
        ("step", "aux_loss", "grad_norm", "tokens", "tokens_per_s"),
        ("step", "validation", "bits_per_byte"),
        ("step", "checkpoint"),
    ),
    _Names.usage.name: json_lines(("step", "num_pools", "counts")),
    _Names.data_summary.name: json_object("unigram_entropy"),
    _Names.heartbeat.name: json_object("state", "step", "steps", "resumed_from", "reason", "time"),
    _Names.placement.name: json_object("step", "layout", "owners", "counts"),
    _Names.loss_curve.name: is_our_figure,
    _Names.usage_figure.name: is_our_figure,
    _Names.config.name: is_written_config,
}
"""Forms that nobody else's file of that name has; in the order of removal, so that an interrupted one can be redone."""
_BEGINNINGS = {
    **dict.fromkeys((_Names.metrics.name, _Names.usage.name), b'{"'),
    **dict.fromkeys((_Names.loss_curve.name, _Names.usage_figure.name), b"\x89PNG"),
}
"""Enough where the directory is proven to be a run's: files cut short by a crash, or of an earlier version."""

_EVENTS = r"events\.out\.tfevents\.\d+\..+"
_LEFT_BEHIND = (_Names.data_summary.name, _Names.heartbeat.name, _Names.watchdog.name)
"""Files left by a start that failed before training began."""

PROBE_FIGURES = ("randomized", "distinct", "ownership", "affinity")
_PICTURES = {"|".join(rf"{name}\.png" for name in PROBE_FIGURES): is_png}
IS_PROBE = json_object("format_version", "randomized", "layers_using", "lift")
_PROBE_FOLDER = Folder(
    {_Names.probe_record.pattern: IS_PROBE, **_PICTURES, r"against-.+": Folder(_PICTURES)},
    sign=_Names.probe_record.pattern,
)

_WATCHDOG_FILES = Folder({WatchdogFolder.summary.pattern: any_file, r"rank-\d+\.txt": any_file, "board": any_file})
_WATCHDOG = Folder({r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d|alone": _WATCHDOG_FILES, "board": any_file})

_CODE: dict[str, Kind] = {
    r".+\.(py|j2|sh|typed)": any_file,
    "__pycache__": Folder({r".+\.pyc(\.\d+)?": any_file}),
}
CODE = Folder(_CODE)
"""A copied folder of the package, or the launchers."""
_CODE[r"[a-z_]+"] = CODE
_USER_CODE: dict[str, Kind] = {r".+\.py": any_file, "__pycache__": _CODE["__pycache__"]}
USER_CODE = Folder(_USER_CODE)
"""Copied modules of the user's own."""
_USER_CODE[r"\w+"] = USER_CODE
JOB_FOLDER = Folder(
    {
        _Names.job_config.pattern: is_written_config,
        _Names.job_record.pattern: json_object("name", "tasks_per_node", "gpus_per_node", "python", "versions"),
        _Names.job_lock.pattern: is_lock,
        **{
            entry.pattern: any_file
            for entry in (
                _Names.attempts,
                _Names.submissions,
                _Names.job_script,
                _Names.doctor_status,
                _Names.deepspeed,
                _Names.packages,
                _Names.environment,
                _Names.code_diff,
            )
        },
        _Names.programs.pattern: Folder({"unipool-dist": any_file}),
        _Names.code.pattern: Folder({"unipool_dist": CODE}),
        _Names.launchers.pattern: CODE,
        _Names.user_code.pattern: USER_CODE,
    },
    sign="|".join(entry.pattern for entry in (_Names.job_config, _Names.job_record, _Names.job_lock, _Names.attempts)),
)
"""``RUN/job``."""


def things_of_a_run(run_dir: Path) -> dict[str, Kind]:
    """Return by name what ``run_dir`` may hold apart from checkpoints and job; ``config.yaml`` is the last file."""
    proven = bool(CheckpointDirectory(run_dir).steps()) or any(
        (run_dir / name).is_file() and _PROOFS[name](run_dir / name)
        for name in (_Names.config.name, _Names.heartbeat.name, _Names.metrics.name)
    )
    files = {name: either(form, _begins_as(name)) if proven else form for name, form in _PROOFS.items()}
    events: dict[str, Kind] = {_EVENTS + EVENTS_SUFFIX.replace(".", r"\."): any_file}
    if proven:
        events[_EVENTS] = _has_our_curves
    folders = {_Names.tensorboard: Folder(events), _Names.probe: _PROBE_FOLDER, _Names.watchdog: _WATCHDOG}
    return {**files, **{entry.name: folder for entry, folder in folders.items()}}


def is_mark(name: str) -> bool:
    """Return whether a file or folder of this name shows that training has begun."""
    return name not in _LEFT_BEHIND


def _begins_as(name: str) -> Form:
    def has_form(path: Path) -> bool:
        found, expected = head(path), _BEGINNINGS.get(name)
        return expected is not None and found.startswith(expected[: len(found)])

    return has_form


def _has_our_curves(path: Path) -> bool:
    """Return whether an event file without suffix, of an earlier version, holds one of its curves, or none at all."""
    found = head(path, 1 << 20)
    if len(found) < 256:  # nothing yet, or the record alone with which TensorBoard begins a file
        return not found or b"brain.Event:" in found
    return b"train/aux_loss" in found or b"validation/bits_per_byte" in found
