"""Sources that no parser should see, and what is no file: errors that name it; the next source is read all the same."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from unipool_dist.base.rows.program import Request
from unipool_dist.cli.data import data
from unipool_dist.data import Corpus
from unipool_dist.data.sources import local_source
from unipool_dist.data.sources.apart import RowReader, RowsError
from unipool_dist.errors import DataError

GOOD = '{"text": "some words"}\n'
DEEP = {
    "in a row": '{"text": ' + "[" * 10_000 + "]" * 10_000 + "}\n",  # ends the process that parses it, by SIGSEGV
    "beside the text": '{"text": "a", "y": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}\n",
    "over lines": "[\n" * 10_000,  # one row each
    "behind a quote": '{"text": "a \\\\\\" [", "y": ' + "[" * 300,
}


def read(location: Path) -> list[str]:
    return [document.text for document in local_source("x", str(location), "text").documents()]


@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize("kind", DEEP)
def test_a_file_too_deep_for_its_parser_is_named_and_the_next_one_read(kind: str, ending: str, tmp_path: Path) -> None:
    (tmp_path / f"a.{ending}").write_text(GOOD)
    (tmp_path / f"b.{ending}").write_text(GOOD + DEEP[kind])
    what = "cannot be read as JSON" if kind == "over lines" else "has brackets nested more than 200 deep"
    with pytest.raises(DataError, match=rf"b\.{ending}:2 {what}"):
        read(tmp_path)
    assert read(tmp_path / f"a.{ending}") == ["some words"]


def test_brackets_in_texts_are_no_depth(tmp_path: Path) -> None:
    texts = ["[" * 1000, '{"' * 500, '\\" [[' * 200, "]" * 1000]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert read(path) == texts


def test_any_signal_is_an_error_and_what_is_left_unread_harms_nobody(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "text {i} {"x" * 1000}"}}\n' for i in range(5000)))
    rows, request = RowReader(), Request("jsonl", str(path), "text")
    texts = rows.rows(request)
    assert next(texts)[1].startswith("text 0 ")  # type: ignore[union-attr]
    process = rows._process
    assert process is not None
    process.send_signal(signal.SIGKILL)
    with pytest.raises(RowsError, match=r"a\.jsonl ended the process that read it \(SIGKILL\)"):
        list(texts)
    texts = rows.rows(request)
    assert next(texts)[1].startswith("text 0 ")  # type: ignore[union-attr]
    texts.close()  # type: ignore[attr-defined]
    assert rows._process is None, "or its answer would be that to the next request"
    rows.close()


def test_after_a_fork_each_process_reads_for_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "text {i} {"x" * 1000}"}}\n' for i in range(5000)))
    rows, request = RowReader(), Request("jsonl", str(path), "text")
    begun = rows.rows(request)
    assert next(begun)[0] == 1
    child = os.fork()
    if child == 0:
        read = len(list(rows.rows(request)))
        rows.close()
        os._exit(0 if read == 5000 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert [number for number, _ in begun] == list(range(2, 5001)), "the child took nothing of the parent's"
    rows.close()


def test_texts_pass_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "l\\u00e4nge \\u4f60 \\ud83d\\ude42 \\u0000 \\n"}\n{"text": ""}\n')
    assert read(path) == ["länge 你 🙂 \0 \n", ""]


def a_folder(folder: Path) -> None:
    (folder / "a.txt").mkdir()  # what a container puts where a file to be mounted is missing


def a_dangling_link(folder: Path) -> None:
    (folder / "a.txt").symlink_to("nowhere")


def a_loop(folder: Path) -> None:
    (folder / "a.txt").symlink_to("a.txt")


def a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "a.txt")


def a_device(folder: Path) -> None:
    (folder / "a.txt").symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [a_folder, a_dangling_link, a_loop, a_pipe, a_device])
def test_what_is_no_file_is_an_error_that_names_it(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "b.txt").write_text("words")
    with pytest.raises(DataError, match=r"a\.txt"):
        read(tmp_path)
    if make is not a_folder:
        with pytest.raises(DataError, match=r"a\.txt"):
            read(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source", "a" * 300 + "=x.jsonl"], "at most 200"),
        (["--source", "x=x.jsonl", "--vocab-size", "99999999999999999999"], "99999999999999999999"),
        (["--source", "x=x.jsonl", "--vocab-size", "-5"], "vocab_size=-5"),
        (["--source", "x=x\0.jsonl"], "has no text files"),
    ],
)
def test_options_that_cannot_be_are_errors(options: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(data, ["prepare", str(tmp_path / "out"), *options])
    assert result.exit_code != 0
    assert message in result.output + str(result.exception)
    assert isinstance(result.exception, DataError | SystemExit), result.exception


def test_too_small_a_vocabulary_is_told_what_it_needs(
    tmp_path: Path, prepared: Callable[..., Corpus], make_texts: Callable[[int, int], list[str]], make_jsonl: Callable
) -> None:
    source = make_jsonl(tmp_path / "a.jsonl", make_texts(1, 50))
    with pytest.raises(DataError, match=r"256 bytes need at least (\d+): change --vocab-size") as refused:
        prepared({"a": str(source)}, vocab_size=260)
    least = int(str(refused.value).split("at least ")[1].split(":")[0])
    assert prepared({"a": str(source)}, vocab_size=least).vocab_size == least
