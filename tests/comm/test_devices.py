"""Processes on GPUs and processes without one do not wait for each other."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from unipool_dist.comm.environment import Environment
from unipool_dist.comm.rendezvous import check_devices
from unipool_dist.errors import TopologyError

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(("first", "second"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_the_node_without_a_gpu_is_named(first: str, second: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, names = dist.HashStore(), iter(["alpha", "beta", "beta", "beta", "beta"])
    monkeypatch.setattr("unipool_dist.comm.rendezvous.socket.gethostname", lambda: next(names))
    check_devices(store, Environment(0, 2, 0, "", 0), first)
    without = "alpha" if first == "cpu" else "beta"
    with pytest.raises(TopologyError, match=f"rank 1 on node beta is on {second}.* why node {without} has no working"):
        check_devices(store, Environment(1, 2, 0, "", 0), second)


def test_processes_of_one_kind_pass() -> None:
    store = dist.HashStore()
    for rank in range(3):
        check_devices(store, Environment(rank, 3, 0, "", 0), "cuda")
