"""Where a corpus is put: what is somebody else's stays, links and volumes work, and a refusal comes first."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.small_disk import small_disk
from tests.support.trees import snapshot
from unipool_dist.base.belongings import ForeignError
from unipool_dist.data import Corpus
from unipool_dist.data import place as place_module
from unipool_dist.data.place import Place
from unipool_dist.data.prepare import PrepareOptions, prepare
from unipool_dist.errors import DataError


@pytest.fixture(scope="module")
def options(sources: dict[str, str]) -> PrepareOptions:
    return PrepareOptions(sources={"beta": sources["beta"]}, vocab_size=380)


def put(out: Path, files: dict[str, str]) -> None:
    """A corpus, as far as its place can tell, by the way that a real one goes."""
    place = Place(out)
    with place.locked() as draft:
        for name, text in files.items():
            (draft / name).write_text(text)
        place.publish()


def manifest(number: int) -> str:
    return json.dumps({"format_version": 1, "options": {"n": number}, "tokenizer": {}, "domains": {}, "files": {}})


def made_up(number: int) -> dict[str, str]:
    return {"manifest.json": manifest(number), "tokenizer.model": str(number), f"d{number}.train.bin": str(number)}


def contents(folder: Path) -> dict[str, object]:
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in snapshot(folder).items()}


def _folder_with_a_thesis(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")


def _link_to_a_thesis(path: Path) -> None:
    _folder_with_a_thesis(path.with_name("mine"))
    path.symlink_to(path.with_name("mine"))


def _link_to_an_empty_folder(path: Path) -> None:
    path.with_name("mine").mkdir()
    path.symlink_to("mine")


def _link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere")


def _file(path: Path) -> None:
    path.write_text("years of work")


def _corpus_of_other_things(path: Path) -> None:
    _folder_with_a_thesis(path)
    (path / ".lock").touch()
    (path / "manifest.json").write_text(manifest(1))


FOREIGN = [
    _folder_with_a_thesis,
    _link_to_a_thesis,
    _link_to_an_empty_folder,
    _link_to_nothing,
    _file,
    _corpus_of_other_things,
]


@pytest.mark.parametrize("beside", ["out.partial", "out.replaced"])
@pytest.mark.parametrize("make", FOREIGN)
@pytest.mark.parametrize("force", [False, True])
def test_what_is_beside_a_corpus_is_refused_before_the_work(
    options: PrepareOptions, tmp_path: Path, beside: str, make: Callable[[Path], None], force: bool
) -> None:
    make(tmp_path / beside)
    if force:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "manifest.json").write_text(manifest(1))
    before = snapshot(tmp_path)
    with pytest.raises(ForeignError, match=f"{beside}.*move it away"):
        prepare(tmp_path / "out", options, force=force)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("make", [_folder_with_a_thesis, _link_to_a_thesis, _link_to_nothing, _file])
def test_what_is_no_corpus_is_not_replaced(
    options: PrepareOptions, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "out")
    before = snapshot(tmp_path)
    for force in (False, True):
        with pytest.raises(DataError, match=r"out.* (is not a corpus|is not a folder)"):
            prepare(tmp_path / "out", options, force=force)
    assert snapshot(tmp_path) == before


def test_a_corpus_with_something_else_in_it_is_not_replaced(tmp_path: Path, options: PrepareOptions) -> None:
    put(tmp_path / "out", made_up(1))
    (tmp_path / "out" / "notes.txt").write_text("where the text is from")
    before = snapshot(tmp_path)
    with pytest.raises(ForeignError, match=r"out/notes\.txt"):
        prepare(tmp_path / "out", options, force=True)
    assert snapshot(tmp_path) == before


def test_something_else_in_the_work_of_an_interrupted_preparation_is_refused(tmp_path: Path) -> None:
    place = Place(tmp_path / "out")
    with place.locked() as draft:
        (draft / "work/text").mkdir(parents=True)
        (draft / "work/text" / f"{'0a' * 12}.keys").touch()
        (draft / "work/text" / f".{'0a' * 12}.text.{'0f' * 6}.new").touch()  # being written when it was killed
    for shared in (False, True):
        with place.shared() if shared else place.locked():
            assert len(list((tmp_path / "out.partial/work/text").iterdir())) == 2
    (tmp_path / "out.partial/work/notes.txt").write_text("of somebody")
    for again in (place.locked, place.shared):
        with pytest.raises(ForeignError, match=r"work/notes\.txt"), again():
            pass


def test_a_corpus_is_replaced_with_its_indices_and_downloads_move_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(out, made_up(1))
    index = out / "cache" / ("0123456789ab" * 2)
    index.mkdir(parents=True)
    (index / "index.json").write_text("{}")
    (out / "downloads").mkdir()
    (out / "downloads" / "a.whl").write_text("a package")
    put(out, made_up(2))
    assert contents(out) == made_up(2) | {"downloads": None, "downloads/a.whl": "a package"}
    assert os.listdir(tmp_path) == ["out"]


def test_of_a_link_to_a_corpus_the_link_alone_is_replaced(tmp_path: Path) -> None:
    put(tmp_path / "scratch", made_up(1))
    (tmp_path / "out").symlink_to("scratch")
    before = snapshot(tmp_path / "scratch")
    put(tmp_path / "out", made_up(2))
    assert contents(tmp_path / "out") == made_up(2) and not (tmp_path / "out").is_symlink()
    assert snapshot(tmp_path / "scratch") == before


@pytest.fixture(params=["link", "mount"])
def volume(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder onto which nothing can be, or is to be, renamed."""
    out = tmp_path / "out"
    if request.param == "link":
        (tmp_path / "scratch").mkdir()
        out.symlink_to("scratch")
    else:
        out.mkdir()
        monkeypatch.setattr(place_module, "is_mount_point", lambda path: path == out)
    (out / "lost+found").mkdir()
    return out


def test_into_an_empty_volume_a_corpus_is_put_from_within(volume: Path, options: PrepareOptions) -> None:
    identity = volume.stat().st_ino
    assert prepare(volume, options)[1] and not prepare(volume, options)[1]
    assert Corpus.open(volume, verify="hash").vocab_size == 380
    assert (volume / "lost+found").is_dir() and not (volume / ".partial").exists()
    assert volume.stat().st_ino == identity, "the folder itself stays"


def test_a_volume_that_is_really_mounted_is_filled_from_within(options: PrepareOptions) -> None:
    with small_disk(50 << 20) as volume:
        assert prepare(volume, options)[1] and not prepare(volume, options)[1]
        assert Corpus.open(volume, verify="hash").vocab_size == 380
        assert not (volume / ".partial").exists() and not volume.with_name(f"{volume.name}.partial").exists()


def test_in_a_mounted_volume_a_corpus_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(place_module, "is_mount_point", lambda path: path == out)
    put(out, made_up(1))
    put(out, made_up(2))
    assert contents(out) == made_up(2)


@pytest.mark.parametrize("num_renames", range(4))
@pytest.mark.parametrize("again", [False, True])
def test_killed_while_it_is_moved_up_a_corpus_is_none_and_the_next_is_whole(
    volume: Path, monkeypatch: pytest.MonkeyPatch, num_renames: int, again: bool
) -> None:
    class Killed(BaseException):
        pass

    rename, left = Path.rename, num_renames

    def die(path: Path, target: Path) -> Path:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", die)
        with pytest.raises(Killed):
            put(volume, made_up(1))
    assert not (volume / "manifest.json").exists()
    if again:
        (volume / "notes.txt").write_text("of somebody")
        with pytest.raises(DataError, match=r"is not a corpus.*notes\.txt"):
            put(volume, made_up(2))
        (volume / "notes.txt").unlink()
    put(volume, made_up(2))
    abandoned = {name for name in contents(volume) if name.startswith("..partial.")}
    assert contents(volume).keys() - abandoned == {*made_up(2), "lost+found"}
    assert bool(abandoned) == (num_renames == 0), "of the draft that was not even begun"
