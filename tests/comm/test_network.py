"""The way to the meeting point: which address of it, which address and interface of this node."""

from __future__ import annotations

import socket
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch.distributed as dist

from tests.support.workers import free_port
from unipool_dist.base.credentials import KEY
from unipool_dist.comm import network
from unipool_dist.comm.environment import Environment
from unipool_dist.comm.network import Route, interface_of, route_to, same_address
from unipool_dist.comm.rendezvous import meet, settle_interface
from unipool_dist.comm.stores import Wait
from unipool_dist.errors import CommunicationError, TopologyError

ELSEWHERE = Route(meeting="10.0.0.1", local="10.0.0.2", interface="eth1")
HERE = Route(meeting="127.0.1.1", local="127.0.0.1", interface="lo")


def loopback() -> str:
    entries = psutil.net_if_addrs().items()
    return next(name for name, addresses in entries if any(entry.address == "127.0.0.1" for entry in addresses))


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "127.0.1.1"])
def test_this_node_itself(name: str) -> None:
    route = route_to(name, 1)
    assert route.arrives_here and route.leads_to_loopback
    assert route.interface == loopback()


def test_the_interface_of_an_own_address_is_the_one_that_has_it() -> None:
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family == socket.AF_INET:
                assert interface_of(entry.address) == name
                assert route_to(entry.address, 1).arrives_here
    assert interface_of("192.0.2.77") is None


def test_addresses_are_compared_without_their_scope() -> None:
    assert same_address("fe80::1%eth0", "fe80:0::1")
    assert not same_address("fe80::1", "fe80::2")
    assert not same_address("::ffff:10.0.0.1", "10.0.0.1")


def test_a_name_that_does_not_resolve_is_explained() -> None:
    with pytest.raises(
        TopologyError, match=rf"MASTER_ADDR=no\.such\.invalid does not resolve on node {socket.gethostname()}"
    ):
        route_to("no.such.invalid", 1)


def test_of_several_addresses_the_first_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answers(address: str, port: int) -> bool:
        asked.append((address, port))
        return address == "10.0.0.2"

    monkeypatch.setattr(network, "addresses_of", lambda name: ["10.0.0.1", "10.0.0.9", "10.0.0.2", "10.0.0.3"])
    monkeypatch.setattr(network, "source_address", lambda address: None if address == "10.0.0.9" else "127.0.0.1")
    monkeypatch.setattr(network, "_answers", answers)
    assert route_to("name", 5).meeting == "10.0.0.2"
    assert asked == [("10.0.0.1", 5), ("10.0.0.2", 5)]
    monkeypatch.setattr(network, "_answers", lambda address, port: False)
    assert route_to("name", 5).meeting == "10.0.0.1"


def test_a_port_that_refuses_answers() -> None:
    assert network._answers("127.0.0.1", free_port())


def settled(*routes: Route, variables: dict[str, str]) -> list[dict[str, str] | Exception]:
    """What each rank has in its environment, of those that have reached the meeting point by ``routes``."""
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=10))
    ends: list[Any] = [dict(variables) for _ in routes]

    def rank(number: int) -> None:
        environment = Environment(number, len(routes), 0, "node0", 1)
        try:
            wait = Wait(environment, timedelta(seconds=10))
            settle_interface(store, environment, routes[number], ends[number], wait)
        except TopologyError as error:
            ends[number] = error

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(len(routes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


def test_on_one_node_nobody_leaves_loopback() -> None:
    here = {"HOME": "/none", "GLOO_SOCKET_IFNAME": loopback(), "NCCL_SOCKET_IFNAME": f"={loopback()}"}
    assert settled(HERE, HERE, variables={"HOME": "/none"}) == [here, here]


def test_the_meeting_point_takes_the_word_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"10.0.0.1": "ib0"}
    monkeypatch.setattr("unipool_dist.comm.rendezvous.interface_of", own.get)
    first = {"GLOO_SOCKET_IFNAME": "ib0", "NCCL_SOCKET_IFNAME": "=ib0"}
    second = {"GLOO_SOCKET_IFNAME": "eth1", "NCCL_SOCKET_IFNAME": "=eth1"}
    assert settled(HERE, HERE, ELSEWHERE, variables={"HOME": "/none"}) == [
        {"HOME": "/none", **named} for named in (first, first, second)
    ]
    own.clear()
    assert "reach MASTER_ADDR=node0 at 10.0.0.1, which is not an address" in str(
        settled(HERE, ELSEWHERE, variables={})[0]
    )


@pytest.mark.parametrize(
    ("routes", "key", "warned"), [((HERE, ELSEWHERE), "", 1), ((HERE, ELSEWHERE), "k", 0), ((HERE,), "", 0)]
)
def test_several_nodes_without_a_key_are_warned_of(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    routes: tuple[Route, ...],
    key: str,
    warned: int,
) -> None:
    monkeypatch.setattr("unipool_dist.comm.rendezvous.interface_of", {"10.0.0.1": "ib0", "127.0.0.1": "lo"}.get)
    monkeypatch.delenv(KEY, raising=False)
    if key:
        monkeypatch.setenv(KEY, key)
    settled(*routes, variables={"HOME": "/none"})
    assert capsys.readouterr().err.count(f"export {KEY}=") == warned


def test_what_is_set_already_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unipool_dist.comm.rendezvous.interface_names", lambda: ["eth7"])
    given = {"GLOO_SOCKET_IFNAME": "eth7", "NCCL_SOCKET_IFNAME": "^docker"}
    assert settled(HERE, ELSEWHERE, variables=given) == [given, given]
    (tmp_path / "nccl.conf").write_text("NCCL_DEBUG=WARN\nNCCL_SOCKET_IFNAME=ib\n")
    conf = {"NCCL_CONF_FILE": str(tmp_path / "nccl.conf")}
    assert settled(ELSEWHERE, variables=conf) == [{**conf, "GLOO_SOCKET_IFNAME": "eth1"}]


def test_an_interface_that_is_not_there_is_named() -> None:
    (end,) = settled(HERE, variables={"GLOO_SOCKET_IFNAME": "eth77"})
    assert isinstance(end, TopologyError) and "GLOO_SOCKET_IFNAME=eth77 is not an interface of node" in str(end)


def test_processes_that_do_not_come_are_missed() -> None:
    with pytest.raises(CommunicationError, match=r"not all of the 2 processes met .* within 1 s .*1 of 2 came"):
        meet(Environment(0, 2, 0, "127.0.0.1", free_port()), timedelta(seconds=1), {})


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as other:
        port = other.getsockname()[1]
        with pytest.raises(CommunicationError, match=rf"MASTER_PORT={port}: another program on node .* has this port"):
            meet(Environment(0, 2, 0, "127.0.0.1", port), timedelta(seconds=1), {})
