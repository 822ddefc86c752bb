"""Quantities as text for people: times, bytes, rates, counts."""

from __future__ import annotations

from collections.abc import Mapping


def seconds(value_s: float) -> str:
    """Return ``12.3 us``, ``4.56 ms`` or ``1.50 s``."""
    if abs(value_s) >= 1:
        return f"{value_s:.2f} s"
    return f"{value_s * 1e3:.2f} ms" if abs(value_s) >= 1e-3 else f"{value_s * 1e6:.1f} us"


def size(num_bytes: float) -> str:
    """Return ``1.7 MB``."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:,.1f} {unit}"
    return f"{num_bytes:.0f} B"


def gb_per_s(bytes_per_s: float) -> str:
    """Return ``1.23 GB/s``."""
    return f"{bytes_per_s / 1e9:.3g} GB/s"


def ratios(values: Mapping[str, float]) -> str:
    """Return ``node-a 2.1x, node-b 1.7x``."""
    return ", ".join(f"{name} {ratio:.1f}x" for name, ratio in values.items())


def counted(number: int, one: str, many: str = "") -> str:
    """Return ``1 node``, ``2 nodes``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
