"""Families of models: what ``model.family`` may name. A family says which tensors a model has and builds its stages.

Importing a built-in family loads no torch; building a stage does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from unipool_dist.base.registry import Registry
from unipool_dist.config.plan import Plan
from unipool_dist.model.inventory import Inventory

if TYPE_CHECKING:
    from unipool_dist.model.block import StagePlace
    from unipool_dist.model.stage import Stage


class ModelFamily(ABC):
    """Base of all families."""

    @abstractmethod
    def inventory(self, plan: Plan) -> Inventory:
        """List the tensors of the model that a plan describes."""

    @abstractmethod
    def build_stage(self, place: StagePlace) -> Stage:
        """Build one pipeline stage, whose parameters are those that the inventory lists for it, not initialised."""


FAMILIES: Registry[type[ModelFamily]] = Registry(
    "model.family",
    {
        "llama": "unipool_dist.model.families.llama:Llama",
        "sandwich": "unipool_dist.model.families.sandwich:Sandwich",
    },
    base=ModelFamily,
)


def family_of(plan: Plan) -> ModelFamily:
    """Return the family that ``model.family`` names.

    Raises:
        ConfigError: there is none of this name, or a user's own cannot be imported.
    """
    return FAMILIES[plan.model.family]()


def inventory(plan: Plan) -> Inventory:
    """List the tensors of the model that a plan describes; errors as of its family."""
    return family_of(plan).inventory(plan)
