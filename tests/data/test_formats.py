"""The same documents from every format, and a text as it is written, whatever else a file holds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.text_files import CODECS, WRITERS, compressed, write_texts
from unipool_dist.data import Corpus
from unipool_dist.data.sources import Problem, Tally, local_source
from unipool_dist.data.sources.base import PassedOver
from unipool_dist.data.sources.tally import Reading
from unipool_dist.errors import DataError

ODD = [
    'tab\tquote"back\\slash',
    "lone\rreturn",
    "sep\u2028arate\u0085",
    "emoji 🙂 你好 e\u0301",
    "zero\0end",
    "[{ }] \ufeff,",
]


@pytest.fixture(scope="module")
def texts(make_texts: Callable[[int, int], list[str]]) -> list[str]:
    return [f"{text}\n{ODD[i % len(ODD)]}." for i, text in enumerate(make_texts(3, 200))]


def read(location: Path | str, field: str = "text") -> list[str]:
    return [document.text for document in local_source("a", str(location), field).documents()]


def rows(location: Path | str, field: str = "text") -> list[tuple[str, str]]:
    """Place, and text or reason, of every row."""
    found = [row for unit in local_source("a", str(location), field).units for row in unit.rows()]
    return [(row.place, row.reason) if isinstance(row, Problem) else (row.name, row.text) for row in found]


def test_the_same_documents_in_every_format_give_the_same_corpus(
    texts: list[str], tmp_path: Path, prepared: Callable[..., Corpus]
) -> None:
    sources = {}
    for number, (kind, codec) in enumerate(product(WRITERS, CODECS)):
        for num_files in (200,) if kind in ("txt", "md") else (1, 10):
            domain = f"d{number:02d}x{num_files}"
            sources[domain] = str(write_texts(tmp_path / domain, kind, codec, texts, num_files))
    saved = pytest.importorskip("datasets").Dataset.from_dict({"text": texts, "n": range(200)})
    saved.save_to_disk(tmp_path / "saved", num_shards=3)
    corpus = prepared({**sources, "saved": str(tmp_path / "saved")}, reading=Reading(dedup=False))
    assert len(corpus.domains) == 37
    for end in ("train.bin", "train.idx", "validation.bin", "validation.idx"):
        assert len({(corpus.path / f"{domain}.{end}").read_bytes() for domain in corpus.domains}) == 1, end
    for record in corpus.domains.values():
        assert record.train_documents + record.validation_documents == 200
        assert record.rows is not None and record.rows.read == 200 and not record.rows.dropped


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "arrow", "arrow stream"])
def test_documents_are_named_by_file_and_row_and_read_exactly(kind: str, texts: list[str], tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "d", kind, ".gz", texts, 4)
    ending = kind.split()[0]
    assert rows(folder) == [(f"{i // 50:03d}.{ending}.gz:{i % 50 + 1}", text) for i, text in enumerate(texts)]


CHANGES: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "a new field": ({}, {"url": "x"}),
    "null, then text": ({"title": None}, {"title": "Hello"}),
    "int, then float": ({"score": 1}, {"score": 1.5}),
    "a date, then text": ({"added": "2021-01-01T00:00:00"}, {"added": "unknown"}),
    "objects": ({"meta": {"date": "2021-01-01"}}, {"meta": {"url": "x", "tags": ["y"]}}),
    "numbers that nothing holds": ({"n": 10**5000}, {"n": 1e308}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_fields_may_change_their_types(change: str, tmp_path: Path) -> None:
    before, after = CHANGES[change]
    lines = ['{"text": "a", ' + _fields(before), '{"text": "b", ' + _fields(after)]
    for name, content in (("1.jsonl", lines[:1]), ("2.jsonl", lines[1:]), ("3.jsonl", lines)):
        (tmp_path / name).write_text("\n".join(content))
    (tmp_path / "4.json").write_text(f"[{lines[0]}, {lines[1]}]")
    assert read(tmp_path) == ["a", "b", "a", "b", "a", "b"]


def _fields(values: dict[str, object]) -> str:
    try:
        return json.dumps({**values, "end": 0})[1:]
    except ValueError:  # Python does not write such a number, other programs do
        return '"n": 1' + "0" * 5000 + "}"


def test_columns_of_other_types_are_not_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "x": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"x": [{"y": [1.5]}], "text": pa.array(["b"], pa.large_string())}), tmp_path / "2.parquet")
    pq.write_table(pa.table({"text": pa.array(["c"]).dictionary_encode(), "x": [b"\xff"]}), tmp_path / "3.parquet")
    assert read(tmp_path) == ["a", "b", "c"]
    table = pa.table({"text": pa.array(["d"], pa.string_view()), "x": [[1]]})
    with pa.ipc.new_file(tmp_path / "4.arrow", table.schema) as writer:
        writer.write_table(table)
    assert read(tmp_path / "4.arrow") == ["d"]


def test_a_text_is_never_converted(tmp_path: Path) -> None:
    dates = ["2021-05-01", "2021-05-02T00:00:00Z", "12", "1e5", "null", "true", "NaN", " padded "]
    for i, text in enumerate(dates):
        (tmp_path / f"{i}.jsonl").write_text(json.dumps({"text": text}))
    assert read(tmp_path) == dates
    numbers = ["12", "true", "[1]", '{"a": 1}', "1e5", "NaN"]
    path = tmp_path / "numbers.json"
    path.write_text("\n".join(f'{{"text": {value}}}' for value in numbers))
    assert rows(path) == [(f"numbers.json:{i}", "not a text") for i in range(1, 7)]
    pq.write_table(pa.table({"text": pa.array([1, None]).cast(pa.timestamp("s"))}), tmp_path / "n.parquet")
    assert rows(tmp_path / "n.parquet") == [("n.parquet:1", "not a text"), ("n.parquet:2", "no text")]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", '[{"text": "a"},{"text": "b"}]', ["a", "b"]),
        ("a.jsonl", '\n [ {"text": "a"}\n ,\n{"text": "b"} ]\n\n', ["a", "b"]),
        ("a.json", '{"text": "a"}\n{"text": "b"}\n', ["a", "b"]),
        ("a.json", '["a",\n "b"]', ["a", "b"]),
        ("a.json", "[]", []),
        ("a.json", '{\n "text": "a",\n "n": 1\n}\n{\n "text": "b" }', ["a", "b"]),
        ("a.json", "[" + ",".join(json.dumps({"text": "x" * 50_000 + str(i)}) for i in range(9)) + "]", None),
        ("a.jsonl", '\ufeff{"text": "a"}\r\n\r\n{"text": "b"}\r\n', ["a", "b"]),
        ("a.jsonl", '{"text": "a\ttab"}', ["a\ttab"]),  # which Python writes as \t, but others as it is
        ("a.txt", "\ufeffa\r\nb", ["a\r\nb"]),
    ],
)
def test_json_of_every_layout(name: str, content: str, expected: list[str] | None, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8", newline="")
    assert read(path) == (expected if expected is not None else ["x" * 50_000 + str(i) for i in range(9)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "a"}, {"text": b}]', "is not JSON: Expecting value"),
        ('[{"text": "a"} {"text": "b"}]', "instead of a comma"),
        ('[{"text": "a"}] {"text": "b"}', "something follows its array"),
        ('[{"text": "a"}, ', "is not JSON"),
        ('{\n"text": "a"\n} x', "is not JSON"),
        ('[{"text": ' + "[" * 5000 + "]" * 5000 + "}]", "nested more than 200 deep"),
    ],
)
def test_json_that_cannot_be_read_on_is_an_error_with_the_name(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"broken\.json: .*{message}"):
        read(path)


def test_a_dataset_of_the_hub_is_streamed(tmp_path: Path) -> None:
    for split, texts in (("train", ["a", None, "b"]), ("validation", ["c"])):
        pq.write_table(pa.table({"body": texts, "n": range(len(texts))}), tmp_path / f"{split}-0.parquet")
    source = local_source("a", f"hf:{tmp_path}", "body", validation=f"hf:{tmp_path}::validation")
    tally = Tally()
    assert [document.text for document in tally.documents(source.units, "a", None)] == ["a", "b"]
    assert tally.dropped == {"no text": 1}
    assert source.validation is not None
    assert [row.text for unit in source.validation for row in unit.rows() if not isinstance(row, Problem)] == ["c"]


def test_of_saved_splits_the_one_that_is_named_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    parts = {split: datasets.Dataset.from_dict({"text": [split]}) for split in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved/train") == ["train"]
    assert read(tmp_path / "saved/test") == ["test"]
    with pytest.raises(DataError, match=r"has the splits train, test: name the folder of one"):
        read(tmp_path / "saved")
    datasets.DatasetDict({"train": parts["train"]}).save_to_disk(tmp_path / "one")
    assert read(tmp_path / "one") == ["train"]


def test_a_saved_dataset_has_regular_files_of_its_own(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    pytest.importorskip("datasets").Dataset.from_dict({"text": ["a"]}).save_to_disk(saved)
    (data_file,) = saved.glob("*.arrow")
    (saved / "cache-1b2c.arrow").touch()
    (saved / "more.arrow").touch()
    with pytest.raises(DataError, match=r"cannot be read(.|\n)*  more\.arrow$"):
        read(saved)
    source = local_source("a", str(saved), "text", skip_unknown=True)
    assert [document.text for document in source.documents()] == ["a"]
    assert source.passed_over == PassedOver(("cache-1b2c.arrow",), ("more.arrow",))
    (saved / "more.arrow").unlink()
    data_file.rename(tmp_path / "data.arrow")
    with pytest.raises(DataError, match=f"cannot be read: .*{data_file.name}"):
        read(saved)
    os.mkfifo(data_file)
    with pytest.raises(DataError, match=f"{data_file.name} is not a regular file"):
        read(saved)
    state = saved / "state.json"
    state.write_text(state.read_text().replace(data_file.name, "../data.arrow"))
    with pytest.raises(DataError, match=r"the records of .*saved are damaged: .*is not a plain file name"):
        read(saved)


def test_compressed_files_end_where_they_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for codec in (".gz", ".zst"):
        path.write_text("".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(20_000)))
        packed = compressed(path, codec)
        whole = packed.read_bytes()
        packed.write_bytes(whole + whole)  # as `cat` joins them
        assert len(read(packed)) == 40_000
        packed.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=rf"a\.jsonl{codec}: .*Truncated"):
            read(packed)
        packed.write_bytes(b"no compression at all")
        with pytest.raises(DataError, match=rf"a\.jsonl{codec}"):
            read(packed)
