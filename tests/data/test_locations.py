"""Which files a location names: exactly those, by whatever name, and nothing is passed over in silence."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from unipool_dist.data.sources import Source, local_source
from unipool_dist.errors import DataError

NAMES = [
    "with space.jsonl",
    "line\nend.jsonl",
    "[ab].jsonl",
    "what?.jsonl",
    "*.jsonl",
    "a::b.jsonl",
    "ünï 你 🙂.jsonl",
    "-r.jsonl",
    "--source=x.jsonl",
    "a,b.jsonl",
    "a=b.jsonl",
    "50%25#1.jsonl",
    "~.jsonl",
    "$HOME.jsonl",
    "\\n.jsonl",
    "{a,b}.jsonl",
    "hf:x.jsonl",
    os.fsdecode(b"not utf-8 \xff.jsonl"),
]
DECOYS = ["a.jsonl", "b.jsonl", "what!.jsonl", "x.jsonl"]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"text": text}))


def texts(source: Source) -> list[str]:
    return [document.text for document in source.documents()]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_read_exactly(name: str, tmp_path: Path) -> None:
    for i, other in enumerate([*DECOYS, *NAMES]):
        write(tmp_path / other, f"decoy {i}")
    write(tmp_path / name, "this one")
    write(tmp_path / "in" / name.removesuffix(".jsonl") / name, "that one")
    assert texts(local_source("a", str(tmp_path / name), "text")) == ["this one"]
    folder = tmp_path / "in" / name.removesuffix(".jsonl")
    source = local_source("a", str(folder), "text")
    assert [document.name for document in source.documents()] == [f"{name}:1"]
    assert texts(source) == ["that one"]


def test_a_folder_is_read_with_all_that_is_below_it(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    write(folder / "a.jsonl", "a")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "b"}'))
    write(folder / "sub/2024/c.JSONL", "c")
    (folder / "sub/D.Json.GZ").write_bytes(gzip.compress(b'[{"text": "d"}]'))
    write(folder.parent / "elsewhere/e.jsonl", "e")
    (folder / "z").symlink_to(folder.parent / "elsewhere")
    source = local_source("a", str(folder), "text")
    assert texts(source) == ["a", "b", "c", "d", "e"]
    assert [unit.name for unit in source.units] == [
        "a.jsonl",
        "b.jsonl.gz",
        "sub/2024/c.JSONL",
        "sub/D.Json.GZ",
        "z/e.jsonl",
    ]


def test_a_link_that_leads_back_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "sub/a.jsonl", "a")
    (tmp_path / "sub/again").symlink_to(tmp_path)
    with pytest.raises(DataError, match="sub/again leads back to a folder that it is in"):
        local_source("a", str(tmp_path), "text")


def test_what_cannot_be_read_is_listed_or_passed_over_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", "a")
    unknown = ["README", "sub/b.jsonl.bz2", "sub/c.tar.gz", "d.gz", "e.warc"]
    for name in unknown:
        write(tmp_path / name, "unknown")
    write(tmp_path / ".git/objects/a.jsonl", "hidden")
    with pytest.raises(DataError, match="--skip-unknown") as error:
        local_source("a", str(tmp_path), "text")
    for name in [*unknown, ".git/"]:
        assert f"  {name}\n" in f"{error.value}\n"
    source = local_source("a", str(tmp_path), "text", skip_unknown=True)
    assert texts(source) == ["a"]
    assert sorted(source.passed_over.unknown) == sorted([*unknown, ".git/"])
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        local_source("a", str(tmp_path), "text", skip_unknown=True)


def test_what_systems_leave_is_passed_over_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "news.jsonl", "a")
    for name in ("._news.jsonl", ".DS_Store", "sub/Thumbs.db", "__MACOSX/._x.jsonl", "__MACOSX/y.jsonl"):
        write(tmp_path / name, "\0\5\26\7")
    source = local_source("a", str(tmp_path), "text")
    assert texts(source) == ["a"]
    assert sorted(source.passed_over.system) == [".DS_Store", "._news.jsonl", "__MACOSX", "sub/Thumbs.db"]


def test_a_pattern_only_where_one_was_asked_for(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl", "sub/c.jsonl", "README.md"):
        write(tmp_path / name, name)
    assert texts(local_source("a", f"glob:{tmp_path}/*.jsonl", "text")) == ["a.jsonl", "b.jsonl"]
    assert texts(local_source("a", f"glob:{tmp_path}/**/*.jsonl", "text")) == ["a.jsonl", "b.jsonl", "sub/c.jsonl"]
    assert texts(local_source("a", f"glob:{tmp_path}/s*", "text")) == ["sub/c.jsonl"]
    for nothing in (f"glob:{tmp_path}/*.parquet", f"{tmp_path}/*.jsonl", f"{tmp_path}/a.jsonl,{tmp_path}/b.jsonl"):
        with pytest.raises(DataError, match=r"has no text files, as nothing is there: .*glob:PATTERN, list:FILE"):
            local_source("a", nothing, "text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no text files, as no file is there"):
        local_source("a", f"{tmp_path}/empty", "text")
    with pytest.raises(DataError, match="names no dataset"):
        local_source("a", "hf:", "text")
    with pytest.raises(DataError, match=r"files of kinds json, text.*glob:FOLDER"):
        local_source("a", f"glob:{tmp_path}/*", "text")


@pytest.mark.parametrize("separator", ["\n", "\0"])
def test_a_list_names_files_in_its_order(separator: str, tmp_path: Path) -> None:
    names = ["b.jsonl", "sub/a.jsonl", " [x] *.jsonl", str(tmp_path / "c.jsonl")]
    names += ["line\nend.jsonl"] if separator == "\0" else []
    for name in names:
        write(tmp_path / name, name)
    (tmp_path / "names").write_text(separator.join(names) + separator)
    assert texts(local_source("a", f"list:{tmp_path}/names", "text")) == names
    (tmp_path / "names").write_text("b.jsonl\n./b.jsonl\n")
    with pytest.raises(DataError, match="names a file twice"):
        local_source("a", f"list:{tmp_path}/names", "text")
    (tmp_path / "names").write_text("b.jsonl\nmissing.jsonl\n")
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        local_source("a", f"list:{tmp_path}/names", "text")


def test_moving_files_changes_no_record_of_them(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        for name in ("a.jsonl", "sub/b.jsonl"):
            write(tmp_path / folder / name, name)
    records = [local_source("a", str(tmp_path / name), "text").origins[0].sha256 for name in ("one", "two")]
    pattern = local_source("a", f"glob:{tmp_path}/one/**/*.jsonl", "text").origins[0].sha256
    assert records[0] == records[1] == pattern
    write(tmp_path / "two/sub/b.jsonl", "changed")
    assert local_source("a", str(tmp_path / "two"), "text").origins[0].sha256 != records[0]
