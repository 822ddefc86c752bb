"""What the sections are made of: their base class, and types of values within bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from unipool_dist.base.names import path_text
from unipool_dist.config.fields import is_section
from unipool_dist.config.roles import role_of

# Upper bounds are far beyond what anybody trains: they keep out slips of the pen, and sizes whose arithmetic alone
# would take the memory. What a machine can hold is asked when a run starts.
MAX_PROCESSES = 100_000

Layers = Annotated[int, Field(ge=1, le=10_000)]
Width = Annotated[int, Field(ge=1, le=1_000_000)]
Experts = Annotated[int, Field(ge=1, le=100_000)]
ExpertWidth = Annotated[int, Field(ge=1, le=10_000_000)]
Tokens = Annotated[int, Field(ge=1, le=100_000_000)]
Processes = Annotated[int, Field(ge=1, le=MAX_PROCESSES)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
CountOrNone = Annotated[int, Field(ge=0, le=1_000_000_000)]
Rank = Annotated[int, Field(ge=0, lt=MAX_PROCESSES)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""A seed that numpy, which shuffles the data, accepts; a longer run counts up from it, after the last from 0."""
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Weight = Annotated[float, Field(gt=0.0, le=1e15)]
Timeout = Annotated[float, Field(ge=0.1, le=1e6)]
"""Seconds. In milliseconds it fits into the 32 bits that waiting for a socket takes."""
TimeLimit = Annotated[float, Field(gt=0.0, le=1e9)]
DataOrder = Literal["indexed", "computed"]
PathText = Annotated[str, AfterValidator(path_text)]


class Section(BaseModel):
    """Base of all sections: immutable, strict about keys and types (``"8"`` is not a number)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse to define a section with a field that has no role.

        Raises:
            TypeError: naming the field.
        """
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if not is_section(field.annotation):
                try:
                    role_of(field)
                except TypeError as error:
                    raise TypeError(f"{cls.__name__}.{name}: {error}") from None
