"""No field without a role, and what each role means."""

from __future__ import annotations

import pytest
from pydantic import Field

from unipool_dist.config import Config
from unipool_dist.config.roles import Io, Layout, Role, Shape, flat, role_of, settings_of
from unipool_dist.config.sections import ModelSection
from unipool_dist.config.values import Section


def test_every_field_has_one_role() -> None:
    roles = {name: role_of(field) for name, field in settings_of(Config).items()}
    assert set(roles.values()) == set(Role)
    assert roles["model.hidden_size"] is Role.SHAPE and roles["pool.balance.alpha"] is Role.RUN


def test_a_field_without_a_role_cannot_be_defined() -> None:
    with pytest.raises(TypeError, match=r"Other\.width: a field needs one role of unipool_dist\.config\.roles, not 0"):

        class Other(Section):
            width: int = Field(3, description="of something")


def test_nor_one_in_a_section_made_from_another() -> None:
    with pytest.raises(TypeError, match=r"LargerModel\.extra: .* not 0"):

        class LargerModel(ModelSection):
            extra: float = 0.5


def test_nor_one_with_two_roles() -> None:
    with pytest.raises(TypeError, match=r"Other\.width: .* not 2"):

        class Other(Section):
            width: Layout[Io[int]] = 3


def test_a_role_is_all_that_a_field_needs() -> None:
    class Small(Section):
        width: Shape[int | None] = None

    assert flat(Small(width=4)) == {"width": 4}
