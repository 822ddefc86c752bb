"""What a run writes into its directory, beside checkpoints, and how it is told from what others have put there."""

from __future__ import annotations

from pathlib import Path

from unipool_dist.base.belongings import Folder, Form, Kind, any_file
from unipool_dist.base.forms import either, head, is_png, json_lines, json_object
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.config import is_written_config
from unipool_dist.observe.files import (
    EVENTS_SUFFIX,
    METRICS_FILE,
    TENSORBOARD_DIR,
    USAGE_FILE,
    is_our_figure,
)
from unipool_dist.resilience.watchdog_files import WATCHDOG, WATCHDOG_FOLDER
from unipool_dist.run.heartbeat import HEARTBEAT_FILE

CONFIG_FILE = "config.yaml"
DATA_SUMMARY_FILE = "data_summary.json"
_FIGURES = ("loss_curve.png", "expert_usage.png")

PROBE_DIR = "probe"
PROBE_FILE = "probe.json"
PROBE_FIGURES = ("randomized", "distinct", "ownership", "affinity")
_PICTURES = {"|".join(rf"{name}\.png" for name in PROBE_FIGURES): is_png}
IS_PROBE = json_object("format_version", "randomized", "layers_using", "lift")
PROBE_FOLDER = Folder({r"probe\.json": IS_PROBE, **_PICTURES, r"against-.+": Folder(_PICTURES)}, sign=r"probe\.json")
"""``RUN/probe``: what is beside ``probe.json`` is known by its name."""

_PROOFS: dict[str, Form] = {
    METRICS_FILE: json_lines(
        ("step", "aux_loss", "grad_norm", "tokens", "tokens_per_s"),
        ("step", "validation", "bits_per_byte"),
        ("step", "checkpoint"),
    ),
    USAGE_FILE: json_lines(("step", "num_pools", "counts")),
    DATA_SUMMARY_FILE: json_object("unigram_entropy"),
    HEARTBEAT_FILE: json_object("state", "step", "steps", "resumed_from", "reason", "time"),
    **dict.fromkeys(_FIGURES, is_our_figure),
    CONFIG_FILE: is_written_config,
}
"""Forms that nobody else's file of that name has; in the order of removal, so that an interrupted one can be redone."""
_BEGINNINGS = {METRICS_FILE: b'{"', USAGE_FILE: b'{"', **dict.fromkeys(_FIGURES, b"\x89PNG")}
"""Where the directory is proven to be a run's: cut short by a crash, or written by an earlier version."""

_EVENTS = r"events\.out\.tfevents\.\d+\..+"
_LEFT_BEHIND = (DATA_SUMMARY_FILE, HEARTBEAT_FILE, WATCHDOG)
"""What a start leaves that has failed before it began."""


def things_of_a_run(run_dir: Path) -> dict[str, Kind]:
    """By name, what ``run_dir`` may hold of a run beside checkpoints; files first, ``config.yaml`` last of them."""
    directory = CheckpointDirectory(run_dir)
    proven = bool(directory.steps()) or any(
        (run_dir / name).is_file() and _PROOFS[name](run_dir / name)
        for name in (CONFIG_FILE, HEARTBEAT_FILE, METRICS_FILE)
    )
    files = {name: either(form, _begins_as(name)) if proven else form for name, form in _PROOFS.items()}
    events: dict[str, Kind] = {_EVENTS + EVENTS_SUFFIX.replace(".", r"\."): any_file}
    if proven:
        events[_EVENTS] = _has_our_curves
    return {**files, TENSORBOARD_DIR: Folder(events), PROBE_DIR: PROBE_FOLDER, WATCHDOG: WATCHDOG_FOLDER}


def is_mark(name: str) -> bool:
    """Whether a thing of this name tells that a run has begun."""
    return name not in _LEFT_BEHIND


def _begins_as(name: str) -> Form:
    def has_form(path: Path) -> bool:
        found, expected = head(path), _BEGINNINGS.get(name)
        return expected is not None and found.startswith(expected[: len(found)])

    return has_form


def _has_our_curves(path: Path) -> bool:
    """Of earlier versions, whose event files had no suffix: as long as they hold a curve of theirs, or none at all."""
    found = head(path, 1 << 20)
    return len(found) < 256 or b"train/aux_loss" in found or b"validation/bits_per_byte" in found
