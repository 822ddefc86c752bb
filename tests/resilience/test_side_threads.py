"""Threads whose collectives are not training's, and the one of autograd that looks like them."""

from __future__ import annotations

import _thread
import threading

import pytest

from unipool_dist.resilience.stacks import side_threads

pytestmark = pytest.mark.pure


def test_a_thread_of_autograd_is_training_even_after_it_has_logged() -> None:
    known, finish = threading.Event(), threading.Event()
    idents: list[int] = []

    def backward() -> None:
        idents.append(threading.current_thread().ident or 0)  # as logging asks; it makes the dummy
        known.set()
        finish.wait(10)

    _thread.start_new_thread(backward, ())
    saver = threading.Thread(target=finish.wait, args=(10,))
    saver.start()
    try:
        assert known.wait(10) and idents[0] in [thread.ident for thread in threading.enumerate()]
        assert saver.ident in side_threads()
        assert idents[0] not in side_threads() and threading.main_thread().ident not in side_threads()
    finally:
        finish.set()
        saver.join()
