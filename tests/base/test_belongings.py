"""The one place that removes: by name and form, never through a link, and no other part of the program removes."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

import unipool_dist
from tests.support.trees import snapshot
from unipool_dist.base.belongings import Folder, ForeignError, Kept, any_file, empty, foreign, is_mount_point, remove
from unipool_dist.base.drafts import DraftLockedError, draft_kind, locked_draft
from unipool_dist.base.forms import is_lock, json_lines, json_object
from unipool_dist.base.writing import replace_text

INNER = Folder({r"\d+\.txt": any_file})
KIND = Folder({r"a\.json": json_object("a"), "inner": INNER, "kept": Kept()}, sign=r"a\.json")


@pytest.fixture
def thing(tmp_path: Path) -> Path:
    path = tmp_path / "thing"
    (path / "inner").mkdir(parents=True)
    (path / "a.json").write_text('{"a": 1}')
    (path / "inner" / "1.txt").write_text("one")
    return path


def test_what_is_of_its_kind_goes(thing: Path) -> None:
    assert foreign(thing, KIND) == []
    remove(thing, KIND)
    assert not thing.exists()


@pytest.mark.parametrize(
    "name", ["b.json", "inner/1.tex", "inner/inner/1.txt", "inner/1.txt/1.txt", "a.json/x", ".b.json.0123456789ab.new"]
)
def test_what_is_not_is_named_and_nothing_goes(thing: Path, name: str) -> None:
    for part in (thing / name, *(thing / name).parents):
        if part.is_file() and part != thing / name:
            part.unlink()
    (thing / name).parent.mkdir(parents=True, exist_ok=True)
    (thing / name).write_text("of somebody")
    before = snapshot(thing)
    with pytest.raises(ForeignError, match="unipool-dist has not made"):
        remove(thing, KIND)
    assert snapshot(thing) == before


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"a": ', "[" * 100_000, "\0"])
def test_the_form_counts_and_not_the_name_alone(thing: Path, text: str) -> None:
    (thing / "a.json").write_text(text)
    assert foreign(thing, KIND) == [thing / "a.json"]


def test_pipes_and_devices_are_not_waited_for(thing: Path) -> None:
    (thing / "inner" / "1.txt").unlink()
    os.mkfifo(thing / "inner" / "1.txt")
    (thing / "inner" / "2.txt").symlink_to("/dev/zero")
    assert foreign(thing, KIND) == [thing / "inner" / "1.txt", thing / "inner" / "2.txt"]


def test_what_is_kept_stays_and_hinders_nothing(thing: Path) -> None:
    (thing / "kept").mkdir()
    (thing / "kept" / "thesis.tex").write_text("years of work")
    empty(thing, KIND)
    assert list(thing.iterdir()) == [thing / "kept"]


def test_links_are_looked_through_and_never_followed_to_remove(thing: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (thing / "a.json").rename(tmp_path / "elsewhere" / "a.json")
    (thing / "a.json").symlink_to(tmp_path / "elsewhere" / "a.json")
    (thing / "inner").rename(tmp_path / "elsewhere" / "inner")
    (thing / "inner").symlink_to("../elsewhere/inner")
    before = snapshot(tmp_path / "elsewhere")
    link = tmp_path / "link"
    link.symlink_to("thing")
    assert foreign(link, KIND) == []
    empty(link, KIND)
    assert link.is_symlink() and list(thing.iterdir()) == [], "the folder that a link leads to is emptied, and stays"
    remove(link, KIND)
    assert not link.is_symlink() and thing.is_dir()
    assert snapshot(tmp_path / "elsewhere") == before


@pytest.mark.parametrize("target", ["nowhere", "link"])
def test_a_link_to_nothing_is_foreign(tmp_path: Path, target: str) -> None:
    (tmp_path / "link").symlink_to(target)
    for kind in (KIND, any_file, None):
        assert foreign(tmp_path / "link", kind) == [tmp_path / "link"]
    with pytest.raises(ForeignError, match="leads nowhere"):
        remove(tmp_path / "link", KIND)


def test_an_empty_folder_is_anybodys_but_within_ours(thing: Path, tmp_path: Path) -> None:
    (thing / "inner" / "1.txt").unlink()
    remove(thing, KIND)
    assert not thing.exists()
    (tmp_path / "empty").mkdir()
    empty(tmp_path / "empty", KIND)
    assert (tmp_path / "empty").is_dir()


def test_what_a_killed_replacement_leaves_is_of_the_kind(thing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", lambda *paths: os.kill(0, 0))
        patched.setattr(Path, "unlink", lambda *arguments, **options: None)
        replace_text(thing / "a.json", '{"a": 2}')
    assert len(list(thing.iterdir())) == 3
    remove(thing, KIND)
    assert not thing.exists()


def test_replacing_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("of somebody")
    (tmp_path / "link").symlink_to("mine")
    replace_text(tmp_path / "link", "new")
    assert (tmp_path / "mine").read_text() == "of somebody" and (tmp_path / "link").read_text() == "new"
    assert (tmp_path / "link").stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_one_process_at_a_time_has_a_draft(tmp_path: Path) -> None:
    kind = draft_kind({r"\d+\.txt": any_file})
    with locked_draft(tmp_path / "draft", kind, purpose="testing"):
        (tmp_path / "draft" / "1.txt").write_text("half")
        with pytest.raises(DraftLockedError), locked_draft(tmp_path / "draft", kind, purpose="testing"):
            pass
        assert (tmp_path / "draft" / "1.txt").exists()
    with locked_draft(tmp_path / "draft", kind, purpose="testing"):
        assert [path.name for path in (tmp_path / "draft").iterdir()] == [".lock"]
    assert [path.name for path in tmp_path.iterdir()] == ["draft"]


def test_forms(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text('{"step": 1, "loss": 2}\n{"step": 2')
    assert json_lines(("step", "loss"))(path) and not json_lines(("step", "tokens"))(path)
    assert not is_lock(path)
    path.write_text("")
    assert is_lock(path) and not json_lines(("step",))(path)


def test_a_folder_is_no_mount_point_and_the_root_is(tmp_path: Path) -> None:
    assert is_mount_point(Path("/")) and is_mount_point(Path("/proc")) and not is_mount_point(tmp_path)


REMOVING = {"rmtree", "unlink", "rmdir", "remove", "removedirs"}
REVIEWED = {"base/belongings.py", "base/writing.py"}


def test_nothing_else_in_the_package_removes_files() -> None:
    package = Path(unipool_dist.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in REMOVING:
                of_os = node.attr in ("remove", "removedirs") and ast.unparse(node.value) != "os"
                found |= set() if of_os else {str(path.relative_to(package))}
    assert found == REVIEWED


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
