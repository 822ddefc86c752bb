"""Facts of all ranks, gathered on rank 0."""

from __future__ import annotations

from collections.abc import Sequence

from unipool_dist.comm.environment import Environment
from unipool_dist.doctor.fact_checks import check_facts
from unipool_dist.doctor.facts import Facts, collect_facts
from unipool_dist.doctor.findings import Check
from unipool_dist.doctor.measurement import Probe
from unipool_dist.doctor.roster import Roster


class FactsProbe(Probe[Facts]):
    """The facts that every process knows by itself; afterwards :attr:`facts` has them all on rank 0."""

    name = "facts"
    measured = Facts

    def __init__(self, environment: Environment, roster: Roster) -> None:
        self._environment, self._roster = environment, roster
        self.facts: list[Facts] = []

    def measure(self, brief: str) -> Facts:
        return collect_facts(self._environment)

    def judge(self, measured: Sequence[Facts]) -> list[Check]:
        self.facts = list(measured)
        return check_facts(self.facts, self._roster)

    def why_groups_may_fail(self) -> str:
        """Return what to do if no process group can be made, as far as the facts allow."""
        nodes = zip(self._roster.nodes, self._roster.leaders, strict=True)
        loopback = [
            node
            for node, leader in nodes
            if self.facts and self.facts[leader].own_addresses and _is_loopback(self.facts[leader].own_addresses[0])
        ]
        if loopback and len(self._roster.nodes) > 1:
            return (
                f"the name of {', '.join(loopback)} means the machine itself (127.*), and that is what gloo tells the "
                f"others; correct /etc/hosts there, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the interface "
                f"of the check `network`"
            )
        return (
            "the ranks reach the meeting point but not each other: let all ports pass between the nodes, or set "
            "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the interface of the check `network`"
        )


def _is_loopback(address: str) -> bool:
    return address == "::1" or address.startswith("127.")
