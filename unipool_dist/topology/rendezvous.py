"""Where all processes of a run find each other, and by which network interface they talk from then on."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from unipool_dist.errors import CommunicationError, TopologyError
from unipool_dist.topology.environment import Environment
from unipool_dist.topology.network import Route, interface_names, interface_of, route_to

GLOO_INTERFACE, NCCL_INTERFACE = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
_MEETING, _ARRIVED, _ALL_HERE = "meeting", "arrived", "all_here"

_log = logging.getLogger(__name__)


def meet(environment: Environment, timeout: timedelta, variables: MutableMapping[str, str] | None = None) -> dist.Store:
    """Join the other processes of the run, and return the store that they share.

    Settles the network interface (:func:`settle_interface`), so it has to be called before the first process group is
    made. Every process of the world has to come; nobody waits much longer than ``timeout``.

    Raises:
        TopologyError: the meeting point has no address, no route leads there, or a named interface is not there.
        CommunicationError: the others did not come, or the port is taken.
    """
    route = route_to(environment.master_addr, environment.master_port)
    host = f"[{route.meeting}]" if ":" in route.meeting else route.meeting
    try:
        store, _, _ = next(
            rendezvous(
                f"tcp://{host}:{environment.master_port}", environment.rank, environment.world_size, timeout=timeout
            )
        )
        store.set_timeout(timeout)
        settle_interface(store, environment, route, os.environ if variables is None else variables)
    except dist.DistError as error:
        raise CommunicationError(_why_alone(environment, route, timeout, error)) from error
    return dist.PrefixStore("world", store)


def settle_interface(
    store: dist.Store, environment: Environment, route: Route, variables: MutableMapping[str, str]
) -> None:
    """If the run is on several nodes, name in ``variables`` the interface of this node on the route between them.

    ``variables`` is the environment of the process, where gloo and NCCL look when a process group is made; both take
    the first address of an interface, IPv4 before IPv6. What the user has set stays as it is. Every process of the
    world has to call this, with the ``store`` they share; those at the meeting point wait for all.

    Raises:
        TopologyError: an interface is named that is not there, or the others reach an address that this node has not.
        DistError: some did not come within the store's timeout.
    """
    _check_named_interface(variables)
    interface = _agree(dist.PrefixStore("network", store), environment, route, variables)
    if interface is not None:
        _name_interface(interface, variables)


def _agree(
    store: dist.Store, environment: Environment, route: Route, variables: MutableMapping[str, str]
) -> str | None:
    """The interface for this process; ``None`` if all processes are on one node.

    The node where they meet cannot see from there by which of its addresses the others reach it (to itself it may
    even be 127.0.1.1), so it takes the word of the others.
    """
    if not route.arrives_here:
        store.set(_MEETING, route.meeting)
    if store.add(_ARRIVED, 1) == environment.world_size:
        store.set(_ALL_HERE, "")
    if not route.arrives_here:
        return route.interface
    store.wait([_ALL_HERE])
    if not store.check([_MEETING]):
        return None
    seen_at = store.get(_MEETING).decode()
    interface = interface_of(seen_at)
    if interface is None and not variables.get(GLOO_INTERFACE):
        raise TopologyError(
            f"other nodes reach MASTER_ADDR={environment.master_addr} at {seen_at}, which is no address of this node, "
            f"{socket.gethostname()}; set MASTER_ADDR to an address that it has, or {GLOO_INTERFACE} and "
            f"{NCCL_INTERFACE} on every node"
        )
    return interface


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
                f"{GLOO_INTERFACE}={name} is no interface of node {socket.gethostname()}, which has "
                f"{', '.join(interface_names())}; name one of these, or unset it"
            )


def _in_nccl_files(name: str, variables: MutableMapping[str, str]) -> bool:
    """Whether a file from which NCCL takes what the environment does not say sets ``name``."""
    own = variables.get("NCCL_CONF_FILE") or Path(variables.get("HOME", "/"), ".nccl.conf")
    for path in (Path(own), Path("/etc/nccl.conf")):
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        if any(line.partition("=")[0].strip() == name for line in lines):
            return True
    return False


def _why_alone(environment: Environment, route: Route, timeout: timedelta, error: dist.DistError) -> str:
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
