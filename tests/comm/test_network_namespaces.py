"""Two nodes, each a network namespace with its own interfaces, names and routes: their processes find each other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PORT = 29444
LIGHT = """
import json, os, sys
from datetime import timedelta
import torch, torch.distributed as dist
from unipool_dist.comm.environment import read_environment
from unipool_dist.comm.rendezvous import meet

environment, timeout = read_environment(), timedelta(seconds=20)
store = meet(environment, timeout)
world = {"rank": environment.rank, "world_size": environment.world_size, "timeout": timeout}
dist.init_process_group("gloo", store=store, **world)
"""
WHOLE = """
import json, os, sys
import torch, torch.distributed as dist
from tests.support.training import tiny_config
from unipool_dist.comm.environment import read_environment
from unipool_dist.comm.groups import process_groups

environment = read_environment()
groups = process_groups(tiny_config("parallel.pp=2", world_size=2), environment)
groups.__enter__()
"""
SUM = """
total = torch.tensor(float(environment.rank + 1))
dist.all_reduce(total, group=dist.new_group([0, 1], backend="gloo"))
named = {name: value for name, value in os.environ.items() if name.endswith("_SOCKET_IFNAME")}
print(json.dumps({"total": total.item(), **named}) + "\\n", end="", flush=True)  # one write: ranks share the pipe
dist.barrier()
dist.destroy_process_group()
"""


def _missing() -> str | None:
    """Why namespaces cannot be made here, if they cannot."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None:
        return "needs root, ip and unshare to make network namespaces"
    name = f"unipool-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made.stderr.strip() if made.returncode else None


@pytest.fixture(scope="module", autouse=True)
def _namespaces_can_be_made() -> None:
    if (reason := _missing()) is not None:
        pytest.skip(reason)


class Nodes:
    """Two network namespaces, joined by a cable whose ends have the names in ``cable``."""

    def __init__(self, folder: Path, cable: tuple[str, str]) -> None:
        self.folder = folder
        self.names = [f"unipool-{os.getpid()}-{node}" for node in (0, 1)]
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
            # An address is usable at once, not only when nobody else was heard to have it.
            self._run(name, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0")
        first, second = self.names
        ip("-n", first, "link", "add", cable[0], "type", "veth", "peer", "name", cable[1], "netns", second)
        for name, interface in zip(self.names, cable, strict=True):
            ip("-n", name, "link", "set", interface, "up")

    def ip(self, node: int, *arguments: str) -> None:
        ip("-n", self.names[node], *arguments)

    def hosts(self, node: int, *lines: str) -> None:
        """What names mean on the node, whose own name is ``node0`` or ``node1``."""
        (self.folder / f"hosts{node}").write_text("".join(f"{line}\n" for line in ("127.0.0.1 localhost", *lines)))

    def start(
        self, master: str, program: str = LIGHT, variables: dict[str, str] | None = None, timeout_s: float = 60
    ) -> list[dict[str, Any]]:
        """Run one rank per node; what each printed. Raises ``AssertionError`` with all output if one failed."""
        processes = [self._start(node, master, program + SUM, variables or {}) for node in (0, 1)]
        try:
            ends = [process.communicate(timeout=timeout_s) for process in processes]
        finally:
            for process in processes:
                process.kill()
        codes = [process.returncode for process in processes]
        assert codes == [0, 0], "\n".join(f"node {node}: {out}{err}" for node, (out, err) in enumerate(ends))
        return [json.loads(out) for out, _ in ends]

    def _start(self, node: int, master: str, program: str, variables: dict[str, str]) -> subprocess.Popen[str]:
        inside = (
            f"mount --bind {self.folder}/hosts{node} /etc/hosts && mount --bind /dev/null /etc/resolv.conf && "
            f'hostname node{node} && exec "$@"'
        )
        command = ["ip", "netns", "exec", self.names[node], "unshare", "--uts", "--mount", "sh", "-c", inside, "sh"]
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_SOCKET_IFNAME")}
        meeting = {"MASTER_ADDR": master, "MASTER_PORT": str(PORT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [*command, sys.executable, "-c", program],
            env={**environment, **meeting, "RANK": str(node), "WORLD_SIZE": "2", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _run(self, name: str, *command: str) -> None:
        subprocess.run(["ip", "netns", "exec", name, *command], check=True, capture_output=True, timeout=10)

    def close(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=10)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Callable[[str, str], Nodes]]:
    made = []

    def make(first: str, second: str) -> Nodes:
        made.append(Nodes(tmp_path, (first, second)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def two_homes(nodes: Callable[[str, str], Nodes]) -> Nodes:
    """Each node's own name and default route are of a network that ends nowhere; the cable is another network."""
    pair = nodes("mid", "mid")
    for node, peer in ((0, 1), (1, 0)):
        pair.ip(node, "link", "add", "out", "type", "veth", "peer", "name", "nowhere")
        pair.ip(node, "link", "set", "out", "up")
        pair.ip(node, "link", "set", "nowhere", "up")
        pair.ip(node, "address", "add", f"10.1.{node}.1/24", "dev", "out")
        pair.ip(node, "route", "add", "default", "via", f"10.1.{node}.254")
        pair.ip(node, "address", "add", f"10.2.{node}.1/32", "dev", "mid")
        pair.ip(node, "route", "add", f"10.2.{peer}.1/32", "dev", "mid", "src", f"10.2.{node}.1")
        pair.hosts(node, "10.1.0.1 node0", "10.2.0.1 node0", "10.1.1.1 node1", "10.2.0.1 mid0")
    return pair


def test_ipv4_with_other_interface_names_on_each_node(nodes: Callable[[str, str], Nodes]) -> None:
    pair = nodes("eth0", "enp3s0")
    for node, interface in ((0, "eth0"), (1, "enp3s0")):
        pair.ip(node, "address", "add", f"10.9.0.{node + 1}/24", "dev", interface)
        # As many systems have it, each node takes its own name for an address of loopback.
        pair.hosts(node, f"127.0.1.1 node{node}", f"10.9.0.{2 - node} node{1 - node}")
    assert pair.start("node0") == [
        {"total": 3.0, "GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "=eth0"},
        {"total": 3.0, "GLOO_SOCKET_IFNAME": "enp3s0", "NCCL_SOCKET_IFNAME": "=enp3s0"},
    ]


@pytest.mark.parametrize("master", ["node0", "fd00:9::1", "[fd00:9::1]"])
def test_ipv6_alone(nodes: Callable[[str, str], Nodes], master: str) -> None:
    pair = nodes("eth0", "eth1")
    for node, interface in ((0, "eth0"), (1, "eth1")):
        pair.ip(node, "address", "add", f"fd00:9::{node + 1}/64", "dev", interface, "nodad")
        pair.hosts(node, "fd00:9::1 node0", "fd00:9::2 node1")
    ends = pair.start(master, WHOLE if master == "node0" else LIGHT)
    assert [end["total"] for end in ends] == [3.0, 3.0]
    assert [end["GLOO_SOCKET_IFNAME"] for end in ends] == ["eth0", "eth1"]


@pytest.mark.parametrize("master", ["node0", "mid0", "10.2.0.1"])
def test_two_networks_of_which_one_joins_the_nodes(nodes: Callable[[str, str], Nodes], master: str) -> None:
    ends = two_homes(nodes).start(master)
    assert [end["total"] for end in ends] == [3.0, 3.0]
    assert [end["GLOO_SOCKET_IFNAME"] for end in ends] == ["mid", "mid"]


def test_without_the_interface_those_two_networks_do_not_work(nodes: Callable[[str, str], Nodes]) -> None:
    unnamed = "import unipool_dist.comm.rendezvous as r; r._name_interface = lambda *_: None\n"
    with pytest.raises((AssertionError, subprocess.TimeoutExpired)):
        two_homes(nodes).start("mid0", unnamed + LIGHT, timeout_s=12)


def test_what_the_user_named_stays(nodes: Callable[[str, str], Nodes]) -> None:
    named = {"GLOO_SOCKET_IFNAME": "mid", "NCCL_SOCKET_IFNAME": "^out"}
    assert two_homes(nodes).start("mid0", variables=named) == [{"total": 3.0, **named}] * 2


def test_a_name_without_a_route_is_explained(nodes: Callable[[str, str], Nodes]) -> None:
    pair = nodes("eth0", "eth0")
    for node in (0, 1):
        pair.hosts(node, "10.7.7.7 node0")
    with pytest.raises(AssertionError) as caught:
        pair.start("node0")
    assert str(caught.value).count("TopologyError: MASTER_ADDR=node0: no route leads from node node") == 2


HERE = """
import sys
from unipool_dist.run.launch import launch_local
launch_local([], 2, program=["-c", sys.argv[1]])
"""


def start_here(folder: Path, loopback: str) -> subprocess.CompletedProcess[str]:
    """Start two ranks with one launcher on a machine that has no network and whose name means nothing."""
    (folder / "hosts").write_text("")
    inside = (
        f"mount --bind {folder}/hosts /etc/hosts && mount --bind /dev/null /etc/resolv.conf && hostname nowhere && "
        f'{loopback} && exec "$@"'
    )
    command = [
        "unshare",
        "--net",
        "--uts",
        "--mount",
        "sh",
        "-c",
        inside,
        "sh",
        sys.executable,
        "-c",
        HERE,
        LIGHT + SUM,
    ]
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_SOCKET_IFNAME")}
    return subprocess.run(
        command, env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    "loopback", ["ip link set lo up", "ip link set lo up && ip address del 127.0.0.1/8 dev lo"], ids=["ipv4", "ipv6"]
)
def test_one_machine_needs_no_name_and_no_network(tmp_path: Path, loopback: str) -> None:
    done = start_here(tmp_path, loopback)
    assert done.returncode == 0, done.stderr
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    assert ends == [{"total": 3.0, "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "=lo"}] * 2
    assert "warn" not in done.stderr.lower()


def test_without_loopback_it_is_said_how_to_bring_it_up(tmp_path: Path) -> None:
    done = start_here(tmp_path, "true")
    assert done.returncode == 1
    assert done.stderr.count("loopback, which has no address here; bring it up first: ip link set lo up") == 2
