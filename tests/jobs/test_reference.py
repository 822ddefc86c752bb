"""docs/profile.md says what the profile's fields say."""

from __future__ import annotations

from pathlib import Path

from unipool_dist.jobs.profile_reference import reference_markdown

DOCUMENT = Path(__file__).parents[2] / "docs" / "profile.md"


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == reference_markdown(), (
        "run: python -m unipool_dist.jobs.profile_reference > docs/profile.md"
    )
