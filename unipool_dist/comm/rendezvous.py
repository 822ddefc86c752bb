"""The rendezvous of all processes of a run, and the network interface that they use afterwards."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from unipool_dist.base.console import say
from unipool_dist.base.credentials import KEY
from unipool_dist.comm.environment import Environment
from unipool_dist.comm.network import Route, interface_names, interface_of, route_to
from unipool_dist.comm.notes import Notes
from unipool_dist.comm.stores import Wait, open_store
from unipool_dist.errors import CommunicationError, TopologyError

GLOO_INTERFACE, NCCL_INTERFACE = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
_MEETING, _ARRIVED = "meeting", "arrived"
_LOOK_EVERY_S = 0.02

_log = logging.getLogger(__name__)


def join_world(environment: Environment, timeout: timedelta) -> None:
    """Make the default process group of all processes of the run, on this rank's device.

    Collectives: the rendezvous of :func:`meet`, then the creation of the world.

    Raises:
        TopologyError, CommunicationError: as :func:`meet`; TopologyError also as :func:`check_devices`.
    """
    device = environment.device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = meet(environment, timeout)
    if environment.world_size > 1:
        check_devices(store, environment, device.type)
    dist.init_process_group(
        environment.backend,
        store=store,
        rank=environment.rank,
        world_size=environment.world_size,
        timeout=timeout,
    )


def check_devices(store: dist.Store, environment: Environment, kind: str) -> None:
    """Refuse processes with devices of different kinds: they would wait for each other in vain.

    Raises:
        TopologyError: another process has a device of another kind than ``kind``.
    """
    other_kind, _, other_node = Notes(store, "devices").claim("kind", f"{kind} {socket.gethostname()}").partition(" ")
    if other_kind == kind:
        return
    without = other_node if kind == "cuda" else socket.gethostname()
    raise TopologyError(
        f"rank {environment.rank} on node {socket.gethostname()} is on {kind}, one on node {other_node} on "
        f"{other_kind}: see why node {without} has no working GPU (nvidia-smi, the job's --gres), or leave it out"
    )


def meet(environment: Environment, timeout: timedelta, variables: MutableMapping[str, str] | None = None) -> dist.Store:
    """Join the other processes of the run; return the store that they share.

    Settles the network interface (:func:`settle_interface`), so call it before making the first process group. Every
    process of the world has to come; nobody waits longer than ``timeout``. A single process gets a store of its own.

    Raises:
        TopologyError: the meeting point has no address, no route leads there, or a named interface does not exist.
        CommunicationError: the others did not come, or the port is taken.
    """
    variables = os.environ if variables is None else variables
    if environment.world_size == 1:
        if _loopback() is not None:
            stay_on_loopback(variables)
        return dist.HashStore()
    wait = Wait(environment, timeout)
    if environment.store is not None:
        return _meet_here(environment, timeout, wait, variables)
    route = route_to(environment.master_addr, environment.master_port)
    try:
        store = open_store(environment, route.meeting, wait)
        settle_interface(store, environment, route, variables, wait)
    except (dist.DistError, CommunicationError) as error:
        raise CommunicationError(_why_alone(environment, route, timeout, error)) from error
    store.set_timeout(timeout)
    return dist.PrefixStore("world", store)


def _meet_here(
    environment: Environment, timeout: timedelta, wait: Wait, variables: MutableMapping[str, str]
) -> dist.Store:
    """Join processes that are all on this machine, as the launcher says."""
    stay_on_loopback(variables)
    store = open_store(environment, environment.master_addr, wait)
    try:
        _all_arrive(Notes(store, "network"), environment, wait)
    except CommunicationError as error:
        raise CommunicationError(
            f"not all of the {environment.world_size} processes came within {timeout.total_seconds():g} s ({error}); "
            f"look in the log for processes that did not start"
        ) from None
    store.set_timeout(timeout)
    return dist.PrefixStore("world", store)


def stay_on_loopback(variables: MutableMapping[str, str]) -> None:
    """Name loopback in ``variables`` as the interface of gloo and NCCL, unless the user has named one.

    For processes that are all on this machine: no others have to reach them, whatever address the machine's name has,
    if it has one.

    Raises:
        TopologyError: loopback is down, or a named interface does not exist.
    """
    _check_named_interface(variables)
    loopback = _loopback()
    if loopback is None:
        raise TopologyError(
            f"the processes of this machine, {socket.gethostname()}, talk over loopback, which has no address here; "
            f"bring it up first: ip link set lo up"
        )
    _name_interface(loopback, variables)


def _loopback() -> str | None:
    """Return the loopback interface; ``None`` if there is none, or it is down."""
    return interface_of("127.0.0.1") or interface_of("::1")


def settle_interface(
    store: dist.Store, environment: Environment, route: Route, variables: MutableMapping[str, str], wait: Wait
) -> None:
    """Name in ``variables`` the interface of this node on the route between the nodes; loopback if there is one node.

    ``variables`` is the environment of the process, where gloo and NCCL look when a process group is made; both take
    the first address of an interface, IPv4 before IPv6. What the user has set stays as it is. Every process of the
    world has to call this, with the ``store`` they share; those at the meeting point wait for all.

    Raises:
        TopologyError: a named interface does not exist, or the others reach an address that this node does not have.
        CommunicationError: some did not come in time.
        DistError: the store is lost.
    """
    _check_named_interface(variables)
    interface = _agree(Notes(store, "network"), environment, route, variables, wait)
    if interface is None:
        stay_on_loopback(variables)
        return
    _name_interface(interface, variables)
    if environment.rank == 0 and KEY not in os.environ:
        say(
            f"warning: without a key of the run, what the nodes tell each other is taken from anybody who reaches "
            f"{environment.master_addr}: export {KEY}=$(openssl rand -hex 32), the same on all nodes "
            f"(docs/security.md)",
            err=True,
        )


def _agree(
    notes: Notes, environment: Environment, route: Route, variables: MutableMapping[str, str], wait: Wait
) -> str | None:
    """Return the interface for this process; ``None`` if all processes are on one node.

    The node where they meet cannot see by which of its addresses the others reach it (to itself it may even be
    127.0.1.1), so it takes their word.
    """
    if not route.arrives_here:
        notes.put(_MEETING, route.meeting)
        notes.count(_ARRIVED, 1)
        return route.interface
    _all_arrive(notes, environment, wait)
    seen_at = notes.get(_MEETING)
    if seen_at is None:
        return None
    interface = interface_of(seen_at)
    if interface is None and not variables.get(GLOO_INTERFACE):
        raise TopologyError(
            f"other nodes reach MASTER_ADDR={environment.master_addr} at {seen_at}, which is not an address of this "
            f"node, {socket.gethostname()}; set MASTER_ADDR to an address that it has, or {GLOO_INTERFACE} and "
            f"{NCCL_INTERFACE} on every node"
        )
    return interface


def _all_arrive(notes: Notes, environment: Environment, wait: Wait) -> None:
    here = notes.count(_ARRIVED, 1)
    while here < environment.world_size:
        if not wait.goes_on(_LOOK_EVERY_S):
            raise CommunicationError(f"{here} of {environment.world_size} came")
        here = notes.count(_ARRIVED)


def _name_interface(interface: str, variables: MutableMapping[str, str]) -> None:
    for name, value in ((GLOO_INTERFACE, interface), (NCCL_INTERFACE, f"={interface}")):  # "=": not also eth10 for eth1
        if variables.get(name) or (name == NCCL_INTERFACE and _in_nccl_files(name, variables)):
            _log.debug("%s is set already; the route between the nodes is by %s", name, interface)
        else:
            variables[name] = value


def _check_named_interface(variables: MutableMapping[str, str]) -> None:
    for name in filter(None, variables.get(GLOO_INTERFACE, "").split(",")):
        if name not in interface_names():
            raise TopologyError(
                f"{GLOO_INTERFACE}={name} is not an interface of node {socket.gethostname()}, which has "
                f"{', '.join(interface_names())}; name one of these, or unset it"
            )


def _in_nccl_files(name: str, variables: MutableMapping[str, str]) -> bool:
    """Return whether one of the files that NCCL reads besides the environment sets ``name``."""
    own = variables.get("NCCL_CONF_FILE") or Path(variables.get("HOME", "/"), ".nccl.conf")
    for path in (Path(own), Path("/etc/nccl.conf")):
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        if any(line.partition("=")[0].strip() == name for line in lines):
            return True
    return False


def _why_alone(environment: Environment, route: Route, timeout: timedelta, error: Exception) -> str:
    point = f"MASTER_ADDR={environment.master_addr} MASTER_PORT={environment.master_port}"
    reason = str(error).strip().splitlines()[0]
    if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
        return f"{point}: another program on node {socket.gethostname()} has this port; set MASTER_PORT to a free one"
    itself = ""
    if route.leads_to_loopback:
        itself = f" On node {socket.gethostname()} this address is the node itself: name the first node by another one."
    return (
        f"not all of the {environment.world_size} processes met at {point} within {timeout.total_seconds():g} s "
        f"({reason}).{itself} Look in the log for processes that did not start, and whether the nodes can reach each "
        f"other at {route.meeting}"
    )
