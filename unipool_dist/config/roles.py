"""Roles of configuration fields: what each decides. Every rule about changing a field is derived from its role.

A field has exactly one role, written into its type: ``lr: Run[Positive]``. There is no default, so a new field cannot
be overlooked at a resume, a comparison or an inference: a section with a field that lacks a role cannot be defined.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from unipool_dist.config.fields import fields_of, is_section

T = TypeVar("T")


class Role(Enum):
    """What a field decides; the value is the meaning, as in docs/configuration.md."""

    SHAPE = "the tensors of the model and what it computes; fixed once there is a checkpoint"
    FIXED = "the order of the data and the optimizer's states; fixed once a checkpoint has been trained"
    RUN = "the numbers of training; may change on resume, which is reported"
    START = "the initial weights; no effect on resume"
    EVAL = "what is evaluated and when; may change on resume"
    SPLIT = "how a step is cut into micro-batches; may change on resume, but some balance losses look at one"
    LAYOUT = "how the run is spread over processes; the numbers stay the same"
    IO = "paths, logging, saving and limits of time"

    @property
    def is_refused_on_resume(self) -> bool:
        """Whether a checkpoint is only resumed with the value that it was written with."""
        return self in (Role.SHAPE, Role.FIXED)

    @property
    def is_free_on_resume(self) -> bool:
        """Whether another value on resume is neither refused nor reported."""
        return not self.is_refused_on_resume and self is not Role.RUN

    @property
    def is_part_of_the_run(self) -> bool:
        """Whether another value, from the first step on, makes another run."""
        return self not in (Role.SPLIT, Role.LAYOUT, Role.IO)

    @property
    def is_compared(self) -> bool:
        """Whether runs that are averaged in a report must agree in it."""
        return self.is_part_of_the_run or self is Role.SPLIT


class _Use(Enum):
    """Marks of a field besides its role."""

    FOR_INFERENCE = "may also be set when a trained model is used: evaluation, generation, probes"
    BY_STAGES = "may change between the stages of a run"


Shape = Annotated[T, Role.SHAPE]
Fixed = Annotated[T, Role.FIXED]
Run = Annotated[T, Role.RUN]
Start = Annotated[T, Role.START]
Eval = Annotated[T, Role.EVAL]
Split = Annotated[T, Role.SPLIT]
Layout = Annotated[T, Role.LAYOUT]
Io = Annotated[T, Role.IO]
InferenceToo = Annotated[T, _Use.FOR_INFERENCE]
"""Around a role: ``InferenceToo[Layout[Layers]]``."""
ByStages = Annotated[T, _Use.BY_STAGES]
"""Around a role: an entry of ``stages`` may change the field, and so may a resume with ``--allow``."""


def role_of(field: FieldInfo) -> Role:
    """Return the role of a field.

    Raises:
        TypeError: it has none, or several.
    """
    roles = [item for item in field.metadata if isinstance(item, Role)]
    if len(roles) != 1:
        raise TypeError(f"a field needs one role of unipool_dist.config.roles, not {len(roles)}")
    return roles[0]


def is_for_inference(field: FieldInfo) -> bool:
    """Return whether the field may be set when a trained model is used."""
    return _Use.FOR_INFERENCE in field.metadata


def may_change_by_stages(field: FieldInfo) -> bool:
    """Return whether an entry of ``stages``, or a resume that is allowed to, may change the field."""
    return _Use.BY_STAGES in field.metadata


def settings_of(schema: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return every field under ``schema`` that is not a section, by its full name."""
    return {name: field for name, field in fields_of(schema) if not is_section(field.annotation)}


def flat(config: BaseModel) -> dict[str, Any]:
    """Return the values of all fields that are not sections, by full name, as JSON has them."""
    values = config.model_dump(mode="json")
    return {name: _at(values, name) for name in settings_of(type(config))}


def differing(before: dict[str, Any], after: dict[str, Any], names: Iterable[str]) -> list[str]:
    """Return those of ``names`` that have another value in ``after`` than in ``before``."""
    return [name for name in names if before[name] != after[name]]


def _at(values: Any, name: str) -> Any:
    for key in name.split("."):
        values = values[key]
    return values
