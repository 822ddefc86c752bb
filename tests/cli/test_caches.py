"""A home directory that cannot be written, or is not there, keeps no command from its work."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.support.unprivileged import modes_count
from unipool_dist.cli.caches import writable_cache
from unipool_dist.errors import UnipoolError


@pytest.mark.parametrize("kind", ["device", "missing parent of a file", "closed", "closed cache", "XDG"])
def test_a_home_that_cannot_be_written(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "home/.cache").mkdir(parents=True)
    (tmp_path / "closed").mkdir(mode=0o500)
    variables = {
        "device": {"HOME": "/dev/null"},
        "missing parent of a file": {"HOME": str(tmp_path / "file/home")},
        "closed": {"HOME": str(tmp_path / "closed")},
        "closed cache": {"HOME": str(tmp_path / "home")},
        "XDG": {"HOME": str(tmp_path), "XDG_CACHE_HOME": "/dev/null/x"},
    }[kind]
    (tmp_path / "home/.cache").chmod(0o500)
    before = dict(variables)
    with modes_count(), writable_cache(variables):
        made = Path(variables["HF_HOME"])
        (made / "x").write_text("written")
    assert variables == before and not made.exists()


@pytest.mark.parametrize("variables", [{"HF_HOME": "/dev/null/mine", "HOME": "/dev/null"}, {"HOME": "{}"}])
def test_what_is_set_or_can_be_written_stays(tmp_path: Path, variables: dict[str, str]) -> None:
    variables = {name: value.format(tmp_path) for name, value in variables.items()}
    before = dict(variables)
    with writable_cache(variables):
        assert variables == before


def test_without_a_home(tmp_path: Path) -> None:
    variables: dict[str, str] = {}
    with writable_cache(variables):
        assert set(variables) <= {"HF_HOME"}


def test_without_any_place_the_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null/tmp")
    with pytest.raises(UnipoolError, match="set HF_HOME or TMPDIR"), writable_cache({"HOME": "/dev/null"}):
        pass
