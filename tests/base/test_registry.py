"""Named choices, and a user's own by ``module:Name``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unipool_dist.base import user_code
from unipool_dist.base.registry import Registry
from unipool_dist.base.user_code import trust, user_files
from unipool_dist.errors import ConfigError


class Shape:
    pass


class Circle(Shape):
    pass


SHAPES: Registry[type[Shape]] = Registry(
    "model.shape", {"circle": Circle, "late": "tests.base.test_registry:Shape"}, base=Shape
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(user_code, "_trusted", set())
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_entries_are_found_by_name_and_loaded_when_asked_for() -> None:
    assert SHAPES["circle"] is Circle
    assert SHAPES["late"].__name__ == "Shape"
    assert list(SHAPES) == ["circle", "late"]
    assert "late" in SHAPES and "square" not in SHAPES
    with pytest.raises(ConfigError, match=r"model.shape=square is unknown; choose circle, late, or name a class"):
        SHAPES["square"]


def test_a_users_class_is_found_where_the_command_was_started(here: Path) -> None:
    (here / "my_sides.py").write_text("SIDES = 4\n")
    (here / "my_shape.py").write_text(
        "import my_sides\nfrom tests.base.test_registry import Shape\n"
        "class Square(Shape):\n    sides = my_sides.SIDES\nclass Other: ...\n"
    )
    path = list(sys.path)
    trust(["my_shape:Square", "my_shape:Other", "my_shape:Nothing"])
    assert SHAPES["my_shape:Square"].sides == 4  # type: ignore[attr-defined]
    assert sys.path == path
    with pytest.raises(ConfigError, match="my_shape:Other must be a class derived from"):
        SHAPES["my_shape:Other"]
    with pytest.raises(ConfigError, match=r"my_shape\.py has no Nothing"):
        SHAPES["my_shape:Nothing"]


def test_code_that_the_user_has_not_named_is_not_imported(here: Path) -> None:
    (here / "evil.py").write_text("raise SystemExit('imported')\n")
    with pytest.raises(ConfigError, match=r"names code.*--trust evil:Square"):
        SHAPES["evil:Square"]


def test_a_module_that_is_nowhere_or_hides_another_is_an_error(here: Path) -> None:
    trust(["not_there:Square", "json:Square"])
    with pytest.raises(ConfigError, match=r"there is no not_there\.py in"):
        SHAPES["not_there:Square"]
    (here / "json.py").write_text("raise SystemExit('imported')\n")
    with pytest.raises(ConfigError, match="json is also the name of another module"):
        SHAPES["json:Square"]


def test_a_job_needs_the_users_files_and_what_they_import(here: Path) -> None:
    (here / "pack").mkdir()
    (here / "pack" / "__init__.py").write_text("")
    (here / "pack" / "part.py").write_text("import torch\n")
    (here / "mine.py").write_text("from pack import part\nimport helper\nraise SystemExit('imported')\n")
    (here / "helper.py").write_text("import mine\n")
    (here / "unused.py").write_text("")
    assert sorted(map(str, user_files(["mine:Square", "circle"]))) == [
        "helper.py",
        "mine.py",
        "pack/__init__.py",
        "pack/part.py",
    ]
