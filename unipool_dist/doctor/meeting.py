"""The rendezvous: opens its store such that missing ranks can be named."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from datetime import timedelta

import torch.distributed as dist

from unipool_dist.base.units import counted, named_ranges, seconds
from unipool_dist.comm import stores
from unipool_dist.comm.environment import Environment
from unipool_dist.doctor.findings import Check
from unipool_dist.errors import CommunicationError


def open_store(environment: Environment, timeout_s: float) -> dist.Store:
    """Open the store at the meeting point: served by rank 0, or by the launcher; not shared if there is one rank.

    Waits only for the rank that serves.

    Raises:
        CommunicationError: the meeting point's name is not known, or nothing serves there within ``timeout_s``.
    """
    if environment.world_size == 1:
        return dist.HashStore()
    address, port = environment.master_addr, environment.master_port
    resolve(address)
    timeout = timedelta(seconds=timeout_s)
    try:
        store = stores.open_store(environment, address, stores.Wait(environment, timeout))
    except CommunicationError as error:
        raise CommunicationError(
            f"rank 0 was not to be reached at MASTER_ADDR={address}, MASTER_PORT={port} within {timeout_s:g} s from "
            f"{socket.gethostname()}: {error}; see whether rank 0 was started there, and whether a firewall is "
            f"between"
        ) from None
    except RuntimeError as error:
        raise CommunicationError(
            f"no store at MASTER_ADDR={address}, MASTER_PORT={port}: {str(error).strip().splitlines()[0]}; choose a "
            f"free port, and the address of the machine that rank 0 runs on"
        ) from None
    store.set_timeout(timeout)
    return store


def judge_meeting(nodes: Sequence[str], took_s: float, timeout_s: float) -> Check:
    """Report that all ranks came; ``nodes`` has the host name of each. Pure."""
    num_nodes = len(set(nodes))
    measured = f"{counted(len(nodes), 'rank')} on {counted(num_nodes, 'node')}"
    figures = {"ranks": len(nodes), "nodes": num_nodes}
    return Check(
        "rendezvous",
        "ok",
        f"{measured} after {seconds(took_s)}",
        f"all ranks within {timeout_s:g} s",
        value=took_s,
        unit="s",
        figures=figures,
    )


def missing_ranks(present: Mapping[int, str], environment: Environment, timeout_s: float) -> Check:
    """Report that some ranks did not come; ``present`` has the host names of those that did. Pure."""
    missing = [rank for rank in range(environment.world_size) if rank not in present]
    hosts: dict[str, list[int]] = {}
    for rank, host in sorted(present.items()):
        hosts.setdefault(host, []).append(rank)
    absent = named_ranges("rank", missing)
    there = "; ".join(f"{host}: {named_ranges('rank', ranks)}" for host, ranks in hosts.items())
    return Check(
        "rendezvous",
        "fail",
        f"{absent} of {environment.world_size} missing after {timeout_s:g} s",
        f"all ranks within {timeout_s:g} s",
        f"there are only {there}. See whether {absent} was started, what it said, and whether its machine "
        f"reaches MASTER_ADDR={environment.master_addr}, MASTER_PORT={environment.master_port}",
        figures={"missing": missing, "present": hosts},
    )


def resolve(name: str) -> list[str]:
    """Return the addresses of ``name``.

    Raises:
        CommunicationError: there are none.
    """
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise CommunicationError(
            f"MASTER_ADDR={name} has no address here, on {socket.gethostname()}: {error}; give the address of rank "
            f"0's machine in numbers, or add the name to the name service"
        ) from None
    return sorted({str(entry[4][0]) for entry in found})
