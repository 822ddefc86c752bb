"""Facts of a process and its machine that need no other process: versions, devices, memory, addresses."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

import unipool_dist
from unipool_dist.base.machine import current_versions
from unipool_dist.comm.environment import Environment
from unipool_dist.comm.network import interface_of, source_address
from unipool_dist.doctor.meeting import resolve
from unipool_dist.errors import CommunicationError


@dataclass(frozen=True)
class Gpu:
    """The GPU of one process."""

    name: str
    uuid: str
    num_visible: int
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Route:
    """This machine's route to the meeting point."""

    address: str
    interface: str
    mbit_per_s: int
    """Speed of the interface; 0: not known."""


@dataclass(frozen=True)
class Facts:
    """The facts of one rank."""

    versions: dict[str, str]
    gpu: Gpu | None
    unused_gpu: bool
    """The machine has an NVIDIA GPU, but torch sees none."""
    cores: list[int]
    """Cores that this process may run on."""
    num_threads: int
    """Threads that torch computes with."""
    memory_bytes: int
    memory_available_bytes: int
    route: Route | None
    master_addresses: list[str]
    resolve_s: float
    own_addresses: list[str]
    """Addresses of this machine's name; gloo announces the first to the others."""


def collect_facts(environment: Environment) -> Facts:
    """Collect the facts of this process."""
    memory = psutil.virtual_memory()
    started = time.perf_counter()
    master = resolve(environment.master_addr)
    resolve_s = time.perf_counter() - started
    try:
        own = resolve(socket.gethostname())
    except CommunicationError:
        own = []
    return Facts(
        versions=versions(),
        gpu=_gpu(environment.device) if torch.cuda.is_available() else None,
        unused_gpu=Path("/dev/nvidia0").exists() and not torch.cuda.is_available(),
        cores=sorted(os.sched_getaffinity(0)),
        num_threads=torch.get_num_threads(),
        memory_bytes=memory.total,
        memory_available_bytes=memory.available,
        route=_route(master[0]),
        master_addresses=master,
        resolve_s=resolve_s,
        own_addresses=own,
    )


def versions() -> dict[str, str]:
    """Return the versions that all ranks must have in common; the project's own includes a hash of its sources."""
    found = dict(current_versions())
    found["unipool-dist"] += f" ({_source_hash()})"
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
        found["nccl"] = ".".join(str(part) for part in torch.cuda.nccl.version())
    return found


def _source_hash() -> str:
    root = Path(unipool_dist.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def _gpu(device: torch.device) -> Gpu:
    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return Gpu(properties.name, str(properties.uuid), torch.cuda.device_count(), free, total)


def _route(address: str) -> Route | None:
    own = source_address(address)
    if own is None:
        return None
    interface = interface_of(own)
    stats = psutil.net_if_stats().get(interface)
    return Route(own, interface or "?", 0 if stats is None else stats.speed)
