"""docs/configuration.md says what the code does."""

from __future__ import annotations

from pathlib import Path

from unipool_dist.config import Config
from unipool_dist.config.fields import fields_of, is_section
from unipool_dist.config.reference import reference_markdown

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_document_is_what_the_sections_give() -> None:
    hint = "run: python -m unipool_dist.config.reference > docs/configuration.md"
    assert DOCUMENT.read_text() == reference_markdown(), hint


def test_every_field_is_described_and_in_the_document() -> None:
    for name, field in fields_of(Config):
        if not is_section(field.annotation):
            assert field.description, name
            assert f"| `{name}` |" in reference_markdown()


def test_every_null_and_auto_says_what_it_becomes() -> None:
    for name, field in fields_of(Config):
        if field.default is None or field.default == "auto":
            assert "null: " in str(field.description) or "auto: " in str(field.description), name
