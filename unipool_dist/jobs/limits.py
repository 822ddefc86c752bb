"""Time limits as sbatch takes them, and whether one leaves a run the time to train."""

from __future__ import annotations

from unipool_dist.errors import ConfigError

_EARLY_S = 60
"""SLURM may send a warning this much before it is due."""


def time_limit_s(text: str) -> int | None:
    """Return the seconds that ``text`` gives a job, ``None`` without a limit.

    ``text`` is minutes, ``M:S``, ``H:M:S``, or days before a dash. SLURM counts begun minutes as whole ones.
    """
    if text == "UNLIMITED":
        return None
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if not dash and len(parts) < 3:  # minutes come first
        parts = [0, *parts]
    hours, minutes, seconds = [*parts, 0, 0][:3]
    total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    return -(-total // 60) * 60 or None


def check_time_limit(limit: str, warning_s: int) -> None:
    """Refuse a limit that leaves no time before the warning to stop.

    Raises:
        ConfigError: nothing would be left between the start and the warning, ``warning_s`` before the limit.
    """
    limit_s = time_limit_s(limit)
    if limit_s is not None and warning_s and limit_s <= warning_s + _EARLY_S:
        raise ConfigError(
            f"--time={limit} is {limit_s} s, and warning_s={warning_s} s before its end (or up to {_EARLY_S} s "
            f"earlier) the run is asked to save and stop: no time would be left to train. Give --time more than "
            f"{(warning_s + _EARLY_S) / 60:g} minutes, or lower warning_s in the profile"
        )
