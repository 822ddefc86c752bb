"""What ends a rank is told in one line, and never by a traceback of torch."""

from __future__ import annotations

import pytest
import torch

from unipool_dist.comm.environment import Environment
from unipool_dist.config import Config
from unipool_dist.run import ending


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee documentation"),
    ],
)
def test_no_memory_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def stop(_: Environment, message: str) -> None:
        said.append(message)
        raise SystemExit(1)

    monkeypatch.setattr(ending, "_stop", stop)
    with pytest.raises(SystemExit), ending.ending_clearly(Environment(0, 1, 0, "127.0.0.1", 0), Config()):
        raise error
    assert "memory" in said[0] and "\n" not in said[0]


def test_what_is_no_fault_of_the_user_is_not_hidden() -> None:
    with (
        pytest.raises(RuntimeError, match="a mistake of ours"),
        ending.ending_clearly(Environment(0, 1, 0, "127.0.0.1", 0), Config()),
    ):
        raise RuntimeError("a mistake of ours")
