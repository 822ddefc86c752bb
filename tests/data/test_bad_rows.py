"""Rows without a text, empty, equal and undecodable ones: counted by reason, named, shown and recorded."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from unipool_dist.cli.data import data
from unipool_dist.data import Corpus
from unipool_dist.data.documents import Document
from unipool_dist.data.prepare import PrepareOptions, prepare
from unipool_dist.data.sources import Problem, Tally, apart, local_source
from unipool_dist.data.sources.tally import Reading
from unipool_dist.errors import DataError


@pytest.fixture(scope="module")
def texts(make_texts: Callable[[int, int], list[str]]) -> list[str]:
    return make_texts(11, 90)


def problems(location: Path, field: str = "text") -> list[str]:
    """Place and detail of every row that is no document."""
    units = local_source("a", str(location), field).units
    return [f"{row.place} {row.detail}" for unit in units for row in unit.rows() if isinstance(row, Problem)]


def test_every_row_is_kept_or_counted_and_the_first_are_named(
    texts: list[str], tmp_path: Path, prepared: Callable[..., Corpus]
) -> None:
    (tmp_path / "d").mkdir()
    rows = [json.dumps({"text": text}) for text in texts[:60]]
    rows[3:3] = ['{"text": null}', '{"other": "x"}', '{"text": 7}', '{"text": "", "n": 1}', '{"text": " \\n "}']
    rows += [rows[0], "not JSON", "[1]", '{"text": "caf\udce9"}']
    (tmp_path / "d/a.jsonl").write_text("\n".join(rows), errors="surrogateescape")
    lines = [json.dumps({"text": text}) for text in [*texts[50:80], None]]
    (tmp_path / "d/b.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    corpus = prepared({"web": str(tmp_path / "d")})
    domain = corpus.domains["web"]
    web = domain.rows
    assert web is not None
    assert web.read == 60 + 5 + 4 + 31
    assert web.dropped == {"no text": 3, "not a text": 1, "undecodable": 3, "empty": 2, "duplicate": 11}
    assert domain.train_documents + domain.validation_documents == web.read - sum(web.dropped.values()) == 80
    assert web.examples["no text"] == [
        "a.jsonl:4 has null under text_field='text'",
        "a.jsonl:5 has no text under text_field='text', only other: name the field with --text-field",
        "b.jsonl.gz:31 has null under text_field='text'",
    ]
    assert web.examples["not a text"] == [
        "a.jsonl:6 has a number under text_field='text', and a text is never converted"
    ]
    assert [example.split(":")[1].split()[0] for example in web.examples["undecodable"]] == ["67", "68", "69"]
    assert web.examples["empty"] == ["a.jsonl:7", "a.jsonl:8"]
    assert web.examples["duplicate"] == ["a.jsonl:66", "b.jsonl.gz:1", "b.jsonl.gz:2"]


def test_the_command_shows_what_was_read_kept_and_dropped(texts: list[str], tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    pq.write_table(
        pa.table({"text": [text if i % 10 else None for i, text in enumerate(texts)]}), tmp_path / "d/a.parquet"
    )
    (tmp_path / "d/._a.parquet").write_bytes(b"x")
    (tmp_path / "d/notes").write_bytes(b"x")
    command = ["prepare", str(tmp_path / "out"), "--source", f"web={tmp_path}/d", "--vocab-size", "400"]
    refused = CliRunner().invoke(data, command)
    assert "notes" in str(refused.exception) and not (tmp_path / "out").exists()
    done = CliRunner().invoke(data, [*command, "--skip-unknown"], catch_exceptions=False)
    lines = done.output.splitlines()
    assert "rows of  read  kept  dropped" in lines
    assert "web        90    81  9 no text" in lines
    assert "web: no text: a.parquet:11 has null under text_field='text'" in lines
    assert "web: no text: and 6 more" in lines
    assert "web: files passed over: 1 of the operating system" in lines
    assert "web: files passed over: 1 unknown" in lines
    shown = CliRunner().invoke(data, ["show", str(tmp_path / "out")], catch_exceptions=False)
    assert shown.output.splitlines() == lines[1:], "the manifest has the counts"


def test_too_many_bad_rows_are_an_error_that_names_them(texts: list[str], tmp_path: Path) -> None:
    rows = [json.dumps({"text": text if i not in (20, 40) else None}) for i, text in enumerate(texts)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    for limit, place in ((0, "a.jsonl:21"), (1, "a.jsonl:41")):
        options = PrepareOptions(sources={"a": str(tmp_path / "a.jsonl")}, vocab_size=400, reading=Reading(limit))
        with pytest.raises(DataError, match=rf"more than --bad-rows .*--bad-rows skip:(.|\n)*{place} has null"):
            prepare(tmp_path / "out", options)
        assert not (tmp_path / "out").exists()
    command = ["prepare", str(tmp_path / "out"), "--source", f"a={tmp_path}/a.jsonl", "--vocab-size=400", "--bad-rows"]
    assert "none of skip, fail and a number" in CliRunner().invoke(data, [*command, "-1"]).output
    assert isinstance(CliRunner().invoke(data, [*command, "fail"]).exception, DataError)
    assert CliRunner().invoke(data, [*command, "2"], catch_exceptions=False).exit_code == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "--source a is empty: its files have no rows"),
        ("\n\n", "--source a is empty"),
        ('{"body": "x"}\n' * 50, r"none of 50 rows has a text:\n.*:1 has no text .*only body: name the field with"),
        ('{"text": null}\n' * 50, r"none of 50 rows has a text:\n.*:1 has null"),
    ],
)
def test_a_source_without_a_text_is_an_error(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "out", PrepareOptions(sources={"a": str(tmp_path / "a.jsonl")}))


def test_a_text_file_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    (tmp_path / "06.txt").write_bytes("a\nfine\ncafé".encode())
    (tmp_path / "07.txt").write_bytes(b"x\n" * 700_000 + b"caf\xe9")
    (tmp_path / "08.txt").write_bytes("é".encode() * (1 << 20))  # a character lies across pieces of the decoder
    expected = ["07.txt cannot be read as UTF-8: byte 0xe9 in line 700,001 of the text"]
    assert problems(tmp_path) == expected
    with pytest.raises(DataError, match=r"07\.txt cannot be read as UTF-8"):
        list(local_source("a", str(tmp_path), "text").documents())


def test_a_column_that_is_not_utf8_has_bad_rows(tmp_path: Path) -> None:
    values = pa.array([b"fine", b"caf\xe9", None]).view(pa.string())
    pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet")
    assert problems(tmp_path) == [
        "a.parquet:2 cannot be read as UTF-8: byte 0xe9 in line 1 of the text",
        "a.parquet:3 has null under text_field='text'",
    ]
    with pytest.raises(DataError, match=r"a\.parquet: it has no text under text_field='body', only text"):
        problems(tmp_path, "body")


def test_a_lone_surrogate_is_replaced(texts: list[str], tmp_path: Path, prepared: Callable[..., Corpus]) -> None:
    rows = [json.dumps({"text": text + ("\ud83d" if i == 33 else "")}) for i, text in enumerate(texts)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    corpus = prepared({"a": str(tmp_path / "a.jsonl")})
    assert corpus.domains["a"].rows is not None and not corpus.domains["a"].rows.dropped
    (tmp_path / "b.jsonl").write_text("\n".join(rows).replace("\\ud83d", "?"))
    prepare(tmp_path / "other", PrepareOptions(sources={"a": str(tmp_path / "b.jsonl")}, vocab_size=400))
    assert Corpus.open(tmp_path / "other").content_hash == corpus.content_hash


def test_domains_that_overlap_say_so_or_keep_what_they_share(texts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    sources = {"a": str(path), "b": str(path)}
    with pytest.raises(DataError, match=r"'b' has 0 distinct documents.*equal to those of a domain before it"):
        prepare(tmp_path / "out", PrepareOptions(sources=sources, vocab_size=400))
    options = PrepareOptions(sources=sources, vocab_size=400, reading=Reading(dedup=False))
    manifest, _ = prepare(tmp_path / "out", options)
    assert [domain.train_documents + domain.validation_documents for domain in manifest.domains.values()] == [90, 90]
    with pytest.raises(DataError, match="dedup=False -> None"):
        prepare(tmp_path / "out", PrepareOptions(sources={"a": str(path), "b": str(path)}, vocab_size=400))


def test_what_the_limit_of_a_domain_leaves_out_is_counted(
    texts: list[str], tmp_path: Path, prepared: Callable[..., Corpus]
) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus = prepared({"a": str(tmp_path / "a.jsonl")}, max_bytes_per_domain=10_000)
    domain = corpus.domains["a"]
    assert domain.rows is not None
    left_out = 90 - domain.train_documents - domain.validation_documents
    assert left_out > 40 and domain.rows.dropped == {"beyond max_bytes_per_domain": left_out}


def test_tallies_of_units_add_up_to_that_of_all() -> None:
    rows = [Problem("no text", f"f:{i}", "x") if i % 3 else Document(f"f:{i}", "text") for i in range(40)]
    whole, parts = Tally(), [Tally(), Tally(), Tally()]
    for i, row in enumerate(rows):
        whole.note(row)
        parts[i // 14].note(row)
    total = Tally()
    for part in parts:
        total.add(Tally(**json.loads(json.dumps(asdict(part)))))
    assert total == whole
    assert (whole.read, whole.bad, len(whole.examples["no text"])) == (40, 26, 3)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".json "])
def test_a_bomb_of_one_row_is_an_error_that_names_the_file_in_little_memory(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"bomb{suffix.strip()}.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        stream.write(b"[" * suffix.endswith(" ") + b'{"text": "')
        for _ in range(1 << 10):
            stream.write(b"a" * (1 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match=rf"bomb{suffix.strip()}\.zst: .* has (more|a value of more) than 67,108,864"):
        problems(path)
    process = apart._reader._process
    assert process is not None, "an error does not end it"
    (peak,) = [
        line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("VmHWM")
    ]
    assert int(peak.split()[1]) < 700 << 10


def test_a_table_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        for _ in range(1 << 8):
            stream.write(bytes(1 << 20))
    with pytest.raises(DataError, match=r"a\.parquet\.zst: it unpacks to more than 1000 times its size"):
        problems(path)
