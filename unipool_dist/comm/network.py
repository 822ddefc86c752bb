"""The address and interface of this node that lead to the meeting point, from the routing table, not from names."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from unipool_dist.errors import TopologyError

_PROBE_S = 3.0


@dataclass(frozen=True)
class Route:
    """A route from this node to the meeting point. Addresses are numeric, IPv4 or IPv6, without brackets."""

    meeting: str
    """An address of the meeting point that can be reached from here."""
    local: str
    """This node's address on the route."""
    interface: str | None
    """The interface that has ``local``; ``None`` if it is gone by now."""

    @property
    def arrives_here(self) -> bool:
        """Whether this node is the meeting point: the route begins where it ends."""
        return self.leads_to_loopback or same_address(self.meeting, self.local)

    @property
    def leads_to_loopback(self) -> bool:
        return is_loopback(self.meeting)


def route_to(name: str, port: int) -> Route:
    """Return the route to ``name``, a host's name or address.

    Nothing is sent if only one address of ``name`` is reachable, or one is this node's own. Of several, the first is
    taken that answers at ``port`` within 3 s, if only by a refusal: the process that listens there may start later than
    this one. If none answers, the first is taken.

    Raises:
        TopologyError: ``name`` has no address, or no route leads to any.
    """
    addresses = addresses_of(name)
    sources = {address: source for address in addresses if (source := source_address(address)) is not None}
    if not sources:
        raise TopologyError(
            f"MASTER_ADDR={name}: no route leads from node {socket.gethostname()} to {' or '.join(addresses)}; set "
            f"MASTER_ADDR to an address of the first node in a network that all nodes are in"
        )
    routes = [Route(address, source, interface_of(source)) for address, source in sources.items()]
    here = sorted((route for route in routes if route.arrives_here), key=lambda route: route.leads_to_loopback)
    if here or len(routes) == 1:
        return (here or routes)[0]
    return next((route for route in routes if _answers(route.meeting, port)), routes[0])


def addresses_of(name: str) -> list[str]:
    """Return the numeric addresses that ``name`` resolves to, each once, the preferred one first.

    Raises:
        TopologyError: there is none.
    """
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise TopologyError(
            f"MASTER_ADDR={name} does not resolve on node {socket.gethostname()} ({error}); set MASTER_ADDR to a name "
            f"that every node resolves, or to the first node's address"
        ) from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def source_address(address: str) -> str | None:
    """Return this node's address on the route to ``address``, or ``None`` if there is no route. Nothing is sent."""
    family, _, _, _, target = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
    try:
        # Connecting a datagram socket only looks up the route, and binds to the address that it gives.
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        return None


def interface_of(address: str) -> str | None:
    """Return the interface of this node that has ``address``, or ``None``.

    For this node's own address it is the interface by which others reach it, though the route uses loopback.
    """
    for interface, entries in psutil.net_if_addrs().items():
        if any(same_address(entry.address, address) for entry in entries if _is_internet(entry.family)):
            return str(interface)
    return interface_of("127.0.0.1") if is_loopback(address) and address != "127.0.0.1" else None


def interface_names() -> Iterable[str]:
    """Return the interfaces of this node that have an IPv4 or IPv6 address."""
    found = psutil.net_if_addrs().items()
    return [str(name) for name, entries in found if any(_is_internet(entry.family) for entry in entries)]


def same_address(one: str, other: str) -> bool:
    """Return whether two numeric addresses are the same, whatever interfaces (``%eth0``) they are scoped to."""
    return _unscoped(one) == _unscoped(other)


def is_loopback(address: str) -> bool:
    """Return whether a numeric address is of the loopback interface."""
    return _unscoped(address).is_loopback


def _unscoped(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(address.partition("%")[0])


def _is_internet(family: int) -> bool:
    return family in (socket.AF_INET, socket.AF_INET6)


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), _PROBE_S):
            return True
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
