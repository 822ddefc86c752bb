"""Files that nobody vouches for: refused quickly, in bounded memory, and always by an error of one's own choosing."""

import json
import os
from pathlib import Path

import pytest

from unipool_dist.base.names import OutsideError, plain_name, regular_inside
from unipool_dist.base.printable import printable
from unipool_dist.base.reading import MAX_DEPTH, UnsafeFileError, parse_json, read_bytes, read_json


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"text": "[[[ \\" {", "more": [1, 2]}', encoding="utf-8")
    assert read_json(path) == {"text": '[[[ " {', "more": [1, 2]}
    link = tmp_path / "link"
    link.symlink_to(path)
    assert read_json(link) == read_json(path)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "huge", "nul"])
def test_what_is_not_a_regular_file_of_bounded_size_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        path.write_bytes(b"x" * 101)
    else:
        path = tmp_path / "a\0b"
    with pytest.raises((UnsafeFileError, IsADirectoryError)):
        read_bytes(path, max_bytes=100)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "1" * 5000, "{", "\ud800"]
)
def test_bombs_and_nonsense_are_value_errors(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_legal_depth_is_read() -> None:
    text = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert json.dumps(parse_json(text)) == text


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\nb", "a\0", "x" * 256, None, 3, "\udcff"]
)
def test_names_that_lead_elsewhere_are_refused(name: object) -> None:
    with pytest.raises(OutsideError):
        plain_name(name)


def test_only_regular_files_inside_the_folder(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    (folder / "sub").mkdir(parents=True)
    outside.mkdir()
    for path in (folder / "file", folder / "sub" / "file", outside / "file"):
        path.write_text("x")
    (folder / "link").symlink_to(outside / "file")
    (folder / "linked").symlink_to(outside)
    os.mkfifo(folder / "pipe")
    assert regular_inside(folder, "file") == folder / "file"
    assert regular_inside(folder, "missing") == folder / "missing"
    assert regular_inside(folder, "sub/file", nested=True) == folder / "sub" / "file"
    for name in ("link", "pipe", "sub"):
        with pytest.raises(OutsideError):
            regular_inside(folder, name)
    for name in ("linked/file", "../outside/file", "sub/../file", "/etc/passwd"):
        with pytest.raises(OutsideError):
            regular_inside(folder, name, nested=True)


def test_control_characters_are_shown_and_scripts_stay() -> None:
    assert printable("\x1b[2J\x07\u202e\u2028\ud800\x9b") == "\\x1b[2J\\x07\\u202e\\u2028\\ud800\\x9b"
    assert printable("naïve Ελλάδα 日本 می‌خواهم 👩‍🔬") == "naïve Ελλάδα 日本 می‌خواهم 👩‍🔬"
    assert printable("a\n\tb", lines=True) == "a\n\tb"
    assert printable("a\nb") == "a\\nb"
