"""A later start of a job asks the former one for the run; nobody else is heard."""

from __future__ import annotations

from pathlib import Path

import pytest

from unipool_dist.resilience import handover
from unipool_dist.resilience.handover import Handover


@pytest.fixture(autouse=True)
def looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "_LOOK_EVERY_S", 0.0)


def start(run_dir: Path, restarts: int, job_id: str | None = "17") -> Handover:
    return Handover(run_dir, job_id, restarts)


def test_a_former_start_is_asked_until_the_later_one_has_got_the_run(tmp_path: Path) -> None:
    former, later = start(tmp_path, 0), start(tmp_path, 1)
    assert not former.is_asked()
    later.ask()
    assert former.is_asked() and former.is_asked()
    assert not later.is_asked(), "by itself"
    later.settle()
    assert not former.is_asked() and list(tmp_path.iterdir()) == []
    later.settle()


def test_the_last_start_is_the_one_that_gets_the_run(tmp_path: Path) -> None:
    former, later, last = (start(tmp_path, restarts) for restarts in range(3))
    last.ask()
    later.ask()  # it waits as well
    assert former.is_asked() and later.is_asked()
    later.settle()  # it has got the lock before the last
    assert later.is_asked() and not last.is_asked()
    last.settle()
    assert not later.is_asked()


@pytest.mark.parametrize(
    ("asking", "asked"),
    [
        ((2, "17"), (2, "17")),  # the same start
        ((1, "17"), (2, "17")),  # what an earlier one had asked for
        ((2, "18"), (0, "17")),  # another job
        ((0, "17"), (0, "17")),  # a job's first start has none before it
        ((2, None), (0, "17")),
        ((2, "17"), (0, None)),  # by hand: a second run is refused, and ends nothing
    ],
)
def test_no_other_process_gives_the_run_away(
    tmp_path: Path, asking: tuple[int, str | None], asked: tuple[int, str | None]
) -> None:
    start(tmp_path, *asking).ask()
    assert not start(tmp_path, *asked).is_asked()


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "{}", '{"slurm_job": "17", "restart": "x"}', "\x80"])
def test_a_request_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / ".handover").write_bytes(text.encode("latin-1"))
    assert not start(tmp_path, 0).is_asked()


def test_a_file_system_that_fails_ends_neither(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    start(gone, 1).ask()
    start(gone, 1).settle()
    assert not start(gone, 0).is_asked()


def test_it_looks_now_and_then_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    former = start(tmp_path, 0)
    monkeypatch.setattr(handover, "_LOOK_EVERY_S", 3600.0)
    assert not former.is_asked()
    start(tmp_path, 1).ask()
    assert not former.is_asked()
    monkeypatch.setattr(handover, "_LOOK_EVERY_S", 0.0)
    assert former.is_asked()
