"""Quantities as text for people: times, bytes, rates, counts, ranges of numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping


def seconds(value_s: float) -> str:
    """Return ``12.3 us``, ``4.56 ms`` or ``1.50 s``."""
    if abs(value_s) >= 1:
        return f"{value_s:.2f} s"
    return f"{value_s * 1e3:.2f} ms" if abs(value_s) >= 1e-3 else f"{value_s * 1e6:.1f} us"


def duration(value_s: float) -> str:
    """Return ``12 s``, ``3:25 min`` or ``2:05 h``."""
    whole = round(value_s)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02d} min" if whole < 3600 else f"{whole // 3600}:{whole // 60 % 60:02d} h"


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


def as_ranges(numbers: Iterable[int], separator: str = ",") -> str:
    """Return ``0-3,8`` for 0, 1, 2, 3 and 8."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return separator.join("-".join(map(str, part)) for part in parts)


def named_ranges(one: str, numbers: Collection[int], separator: str = ", ") -> str:
    """Return ``rank 3``, or ``ranks 0-3, 6``, for ``one="rank"``."""
    return f"{one if len(set(numbers)) == 1 else one + 's'} {as_ranges(numbers, separator)}"


def from_ranges(text: str) -> set[int]:
    """Parse the result of :func:`as_ranges`."""
    numbers: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers
