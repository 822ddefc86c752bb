"""How a run begins, as the command line says; apart from the session, which takes seconds to import."""

from __future__ import annotations

from dataclasses import dataclass

IF_ANY, MUST = "if-any", "must"
"""Values of ``--resume``: resume from a checkpoint if there is one (the meaning without a value), or fail."""


@dataclass(frozen=True)
class Start:
    """What to do with a run that the run directory already holds."""

    overwrite: bool = False
    resume: bool = False
    must_resume: bool = False
    """Whether it is an error if there is no checkpoint to resume from."""
    from_step: int | None = None
    allow: tuple[str, ...] = ()
    """Fields that may have another value than in the checkpoint, from the next step on."""
