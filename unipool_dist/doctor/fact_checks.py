"""Checks of the facts of all ranks: versions, devices, cores, memory, addresses. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unipool_dist.base.units import counted, seconds, size
from unipool_dist.doctor.facts import Facts
from unipool_dist.doctor.findings import Check, Status
from unipool_dist.doctor.judgement import by_value
from unipool_dist.doctor.roster import Roster

_MIN_MEMORY_BYTES = 1e9  # of a process: the libraries alone take half of it
_MAX_RESOLVE_S = 1.0
_MAX_GPU_USE = 0.1


def check_facts(facts: Sequence[Facts], roster: Roster) -> list[Check]:
    """Check all facts, by rank; a failed check named ``devices`` means that the ranks cannot communicate."""
    return [
        check_versions(facts, roster),
        check_devices(facts, roster),
        check_cores(facts, roster),
        check_memory(facts, roster),
        check_master(facts, roster),
        check_network(facts, roster),
    ]


def check_versions(facts: Sequence[Facts], roster: Roster) -> Check:
    """Check that versions agree on all ranks; a difference in Python's last number is only a warning."""
    status: Status = "ok"
    different: list[str] = []
    figures: dict[str, Any] = {}
    for name in sorted({name for one in facts for name in one.versions}, key=_order):
        values = by_value(one.versions.get(name, "none") for one in facts)
        if len(values) == 1:
            figures[name] = next(iter(values))
            continue
        figures[name] = {value: roster.name(ranks) for value, ranks in values.items()}
        status = "fail" if not _only_patch(name, list(values)) or status == "fail" else "warn"
        different.append(f"{name} " + ", ".join(f"{value} on {roster.name(ranks)}" for value, ranks in values.items()))
    return Check(
        "versions",
        status,
        "; ".join(different) or ", ".join(f"{name} {value}" for name, value in facts[0].versions.items()),
        "equal on all ranks",
        "" if status == "ok" else "install the same versions on every node, from the same file in constraints/",
        figures=figures,
    )


def _order(name: str) -> tuple[bool, str]:
    return name != "unipool-dist", name


def _only_patch(name: str, values: Sequence[str]) -> bool:
    return name == "python" and len({value.rpartition(".")[0] for value in values}) == 1


def check_devices(facts: Sequence[Facts], roster: Roster) -> Check:
    """Check for one kind of device everywhere, one process on each GPU, and GPUs that nobody else uses."""
    kinds = by_value(one.gpu.name if one.gpu else "CPU" for one in facts)
    measured = ", ".join(f"{len(ranks)} x {kind}" for kind, ranks in kinds.items())
    gpus = [one.gpu for one in facts if one.gpu is not None]
    expected = "one GPU for each process, all alike" if gpus else "the same on all ranks"
    figures: dict[str, Any] = {"ranks_by_device": kinds}
    if gpus:
        figures |= {"gpu_free_bytes": [gpu.free_bytes for gpu in gpus], "gpus_per_node": [g.num_visible for g in gpus]}
    status, advice = _device_verdict(facts, roster, kinds)
    return Check("devices", status, measured, expected, advice, len(gpus) or None, "GPUs" if gpus else "", figures)


def _device_verdict(facts: Sequence[Facts], roster: Roster, kinds: dict[str, list[int]]) -> tuple[Status, str]:
    if "CPU" in kinds and len(kinds) > 1:
        return (
            "fail",
            f"{roster.name(kinds['CPU'])} see no GPU, others do; ask for GPUs on every node, or hide them all",
        )
    holders = by_value((roster.node_of[rank], one.gpu.uuid) for rank, one in enumerate(facts) if one.gpu)
    shared = [ranks for ranks in holders.values() if len(ranks) > 1]
    if shared:
        names = "; ".join(roster.name(ranks) for ranks in shared)
        return "fail", f"several ranks share one GPU: {names}; start one process per GPU and let each see all of them"
    unused = [rank for rank, one in enumerate(facts) if one.unused_gpu]
    if unused:
        return "warn", f"{roster.name(unused)}: the machine has a GPU that torch does not see; install a CUDA build"
    if len(kinds) > 1:
        return "warn", "the slowest kind of GPU sets the pace; take nodes of one kind"
    used = [
        r for r, one in enumerate(facts) if one.gpu and one.gpu.free_bytes < (1 - _MAX_GPU_USE) * one.gpu.total_bytes
    ]
    if used:
        return "warn", f"GPU memory is in use already on {roster.name(used)}; find whose with nvidia-smi and end it"
    return "ok", ""


def check_cores(facts: Sequence[Facts], roster: Roster) -> Check:
    """Check that a node has no more computing threads than cores that its processes may run on."""
    cores = {node: len(set().union(*(facts[rank].cores for rank in roster.ranks_of(node)))) for node in roster.nodes}
    threads = {node: sum(facts[rank].num_threads for rank in roster.ranks_of(node)) for node in roster.nodes}
    node = min(roster.nodes, key=lambda name: cores[name] / threads[name])
    crowded = [name for name in roster.nodes if threads[name] > cores[name]]
    processes = len(roster.ranks_of(node))
    remedy = f"set OMP_NUM_THREADS={cores[node] // processes}" if cores[node] >= processes else "start fewer processes"
    busy = f"{counted(threads[node], 'thread')} of {counted(processes, 'process', 'processes')}"
    return Check(
        "cores",
        "warn" if crowded else "ok",
        f"{busy} on {counted(cores[node], 'core')}",
        "a core for each thread",
        f"threads wait for each other on {', '.join(crowded)}; {remedy}" if crowded else "",
        cores[node] / threads[node],
        "cores/thread",
        {"cores": cores, "threads": threads},
    )


def check_memory(facts: Sequence[Facts], roster: Roster) -> Check:
    """Check the free memory of the hosts for each process."""
    share = {
        node: min(facts[rank].memory_available_bytes for rank in roster.ranks_of(node)) / len(roster.ranks_of(node))
        for node in roster.nodes
    }
    node = min(share, key=lambda name: share[name])
    short = share[node] < _MIN_MEMORY_BYTES
    return Check(
        "memory",
        "warn" if short else "ok",
        f"{size(share[node])} for each process" + (f" on {node}" if len(share) > 1 else ""),
        f"{size(_MIN_MEMORY_BYTES)} and the model's share",
        f"{node} has little memory left; see what else runs there, or start fewer processes" if short else "",
        share[node],
        "bytes",
        {"available_per_process_bytes": share},
    )


def check_master(facts: Sequence[Facts], roster: Roster) -> Check:
    """Check that the meeting point's name means the same to all ranks, and is resolved quickly."""
    agreed = set.intersection(*(set(one.master_addresses) for one in facts))
    slowest = max(range(len(facts)), key=lambda rank: facts[rank].resolve_s)
    value_s = facts[slowest].resolve_s
    advice = ""
    if not agreed:
        found = by_value(", ".join(one.master_addresses) for one in facts)
        named = "; ".join(f"{addresses} on {roster.name(ranks)}" for addresses, ranks in found.items())
        advice = f"the name has different addresses: {named}; set MASTER_ADDR to the address in numbers"
    elif value_s > _MAX_RESOLVE_S:
        advice = f"the name service is slow on {roster.name([slowest])}; set MASTER_ADDR to the address in numbers"
    return Check(
        "master address",
        "warn" if advice else "ok",
        f"{', '.join(sorted(agreed)) or 'no address in common'}, looked up in {seconds(value_s)}",
        f"the same on all ranks, within {seconds(_MAX_RESOLVE_S)}",
        advice,
        value_s,
        "s",
    )


def check_network(facts: Sequence[Facts], roster: Roster) -> Check:
    """Report interface and address of each node towards rank 0."""
    rows, speeds = [], {}
    for node, leader in zip(roster.nodes, roster.leaders, strict=True):
        route = facts[leader].route
        rows.append(
            {
                "node": node,
                "address": route.address if route else None,
                "interface": route.interface if route else None,
                "mbit_per_s": route.mbit_per_s if route else None,
            }
        )
        if route and route.mbit_per_s:
            speeds[node] = route.mbit_per_s
    lost = [str(row["node"]) for row in rows if row["address"] is None]
    slower = [node for node, speed in speeds.items() if speed < max(speeds.values())]
    advice = ""
    if lost:
        advice = f"{', '.join(lost)} has no route to the master's address; see its interfaces with `ip route`"
    elif slower:
        advice = f"{', '.join(slower)} has a slower interface than others; see GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME"
    shown = [f"{row['node']} {row['interface']} {row['address']}" for row in rows]
    return Check(
        "network",
        "warn" if advice else "ok",
        ", ".join(shown[:4]) + (f", and {len(shown) - 4} more nodes" if len(shown) > 4 else ""),
        "a route to rank 0",
        advice,
        min(speeds.values(), default=None),
        "Mbit/s" if speeds else "",
        {"nodes": rows, "looks_up_itself_as": [facts[leader].own_addresses for leader in roster.leaders]},
    )


def describe_nodes(facts: Sequence[Facts], roster: Roster) -> list[dict[str, Any]]:
    """Return one object for each node, for programs."""
    described = []
    for node, leader in zip(roster.nodes, roster.leaders, strict=True):
        one = facts[leader]
        described.append(
            {
                "name": node,
                "ranks": roster.ranks_of(node),
                "address": one.route.address if one.route else None,
                "interface": one.route.interface if one.route else None,
                "device": one.gpu.name if one.gpu else "CPU",
                "gpus": one.gpu.num_visible if one.gpu else 0,
                "cores": len(set().union(*(facts[rank].cores for rank in roster.ranks_of(node)))),
                "memory_bytes": one.memory_bytes,
                "memory_available_bytes": one.memory_available_bytes,
            }
        )
    return described
