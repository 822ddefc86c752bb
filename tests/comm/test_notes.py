"""What one reads in a store that anybody may write into: notes of the run alone."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from unipool_dist.base.credentials import KEY, new_key
from unipool_dist.comm.notes import Notes


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dist.Store:
    monkeypatch.setenv(KEY, new_key())
    return dist.HashStore()


def test_a_note_is_what_was_left(store: dist.Store) -> None:
    notes = Notes(store, "watchdog")
    assert notes.get("alarm") is None
    notes.put("alarm", "a text, with spaces and ünïcode\nand lines")
    assert (
        Notes(store, "watchdog").get("alarm") == notes.wait("alarm", 1) == "a text, with spaces and ünïcode\nand lines"
    )
    assert [notes.claim("name", "mine"), notes.claim("name", "late")] == ["mine", "mine"]
    assert [notes.count("n", 2), notes.count("n")] == [2, 2]


@pytest.mark.parametrize("planted", ['{"rank": 0, "doing": "x"}', "", "0" * 64 + ' {"rank": 0}', "\udcff\x00", " "])
def test_what_somebody_else_wrote_is_not_there(store: dist.Store, planted: str) -> None:
    notes = Notes(store, "watchdog")
    store.set("watchdog/alarm", planted.encode("utf-8", "surrogateescape"))  # type: ignore[arg-type]
    assert notes.get("alarm") is None
    assert notes.claim("alarm", "ours") == "ours" == notes.get("alarm")


def test_a_true_note_counts_only_under_its_name_and_with_the_key(
    store: dist.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes(store, "watchdog")
    notes.put("where/1", "here")
    for place in ("watchdog/where/2", "doctor/where/1"):
        store.set(place, store.get("watchdog/where/1").decode())
    assert notes.get("where/2") is None
    assert Notes(store, "doctor").get("where/1") is None
    monkeypatch.setenv(KEY, new_key())
    assert Notes(store, "watchdog").get("where/1") is None


def test_without_a_key_notes_are_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    store = dist.HashStore()
    store.set("watchdog/a", "b")
    assert Notes(store, "watchdog").get("a") == "b"


def test_a_wait_for_a_note_does_not_end_at_somebody_elses(store: dist.Store) -> None:
    store.set("doctor/1", "planted")
    with pytest.raises(RuntimeError, match="no note 1 of this run"):
        Notes(store, "doctor").wait("1", 0.2)
