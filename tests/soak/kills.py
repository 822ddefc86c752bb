"""What has been killed and what it cost: kept on disk after each kill, so that a soak can go on; and said in words."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median


@dataclass
class Kill:
    """One kill and what it cost."""

    num_ranks: int
    moment: str
    victim: str
    during_save: bool
    new_steps: int
    last_step: int
    resume_from: int
    lost: int
    allowed: int
    start_s: float
    """From the start of this run to its first new step; 0 if it did not get there."""
    end_s: float
    """From the kill to the end of the last process."""
    whole_s: float
    """From the start of this run to the end of all checks."""

    def __str__(self) -> str:
        saving = ", during a save" if self.during_save else ""
        return (
            f"{self.victim} of {self.num_ranks} at step {self.last_step}, {self.new_steps} new{saving}; resumes from "
            f"{self.resume_from}, {self.lost} of at most {self.allowed} steps lost; ended in {self.end_s:.1f} s"
        )


def read(path: Path) -> list[Kill]:
    """The kills of an earlier soak; none if there was none."""
    return [Kill(**kill) for kill in json.loads(path.read_text())] if path.exists() else []


def write(path: Path, kills: Sequence[Kill]) -> None:
    """Replace the record by a rename."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps([asdict(kill) for kill in kills], indent=1))
    new.replace(path)


def summary(kills: Sequence[Kill], interval: int) -> str:
    """What a soak has shown, when no promise was broken."""
    trained = [kill for kill in kills if kill.new_steps]
    lost = Counter(kill.lost for kill in trained)
    victims = Counter(re.sub(r"rank [1-9]\d*", "a rank", kill.victim) for kill in kills)
    starts, ends = [kill.start_s for kill in kills if kill.start_s] or [0.0], [kill.end_s for kill in kills]
    whole = [kill.whole_s for kill in kills]
    during_save = sum(kill.during_save for kill in kills)
    return (
        f"{len(kills)} kills, {during_save} during a save, {len(kills) - len(trained)} before the first step: "
        f"{', '.join(f'{number} of {name}' for name, number in victims.most_common())}\n"
        f"lost at most {max(lost, default=0)} steps, with {interval} between checkpoints; by steps lost: "
        f"{', '.join(f'{steps}: {lost[steps]}' for steps in sorted(lost))}\n"
        f"from start to first step {median(starts):.1f} s (at most {max(starts):.1f}); from kill to the end of all "
        f"processes {median(ends):.1f} s (at most {max(ends):.1f}); {median(whole):.1f} s for each kill\n"
        f"no process and no temporary file was left; the final states are those of the uninterrupted runs, bit for bit"
    )
