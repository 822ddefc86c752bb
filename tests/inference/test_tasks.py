"""Which tasks there are, and where their data is looked for."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from unipool_dist.errors import DataError, UnipoolError
from unipool_dist.inference.task_data import PAPER_TASKS, data_files, read_rows, task_names


def test_names_are_those_of_lm_eval() -> None:
    assert task_names("heldout, arc_easy,heldout") == ["heldout", "arc_easy"]
    assert task_names("paper,heldout") == [*PAPER_TASKS, "heldout"] and len(PAPER_TASKS) == 7
    for wrong in ("arc_esay", "heldout,,race", ""):
        with pytest.raises(UnipoolError, match=r"there is no task .*; choose among heldout, arc_easy, "):
            task_names(wrong)


def test_data_is_one_folder_for_each_task(tmp_path: Path) -> None:
    for name in ("piqa/validation.jsonl", "race/test-00000-of-00002.parquet", "race/test-00001-of-00002.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "piqa" / "train.jsonl").touch()
    found = data_files(["heldout", "piqa", "race"], tmp_path)
    assert {name: [path.name for path in files] for name, files in found.items()} == {
        "piqa": ["validation.jsonl"],
        "race": ["test-00000-of-00002.parquet", "test-00001-of-00002.parquet"],
    }
    assert data_files(["heldout"], None) == {}


def test_all_data_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"piqa, race: say where the data is: --task-data DIRECTORY"):
        data_files(["heldout", "piqa", "race"], None)
    (tmp_path / "piqa").mkdir()
    with pytest.raises(DataError) as error:
        data_files(["piqa", "race"], tmp_path)
    assert f"piqa: no validation*.jsonl or .parquet in {tmp_path / 'piqa'}, of baber/piqa" in str(error.value)
    assert f"race: no test*.jsonl or .parquet in {tmp_path / 'race'}, of EleutherAI/race, high" in str(error.value)


def test_rows_are_read_alike_from_both_kinds_of_files(tmp_path: Path) -> None:
    rows = [{"text": "one\u2028line", "choices": {"label": ["A"]}}, {"text": "zwei", "choices": {"label": ["B"]}}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read_rows([tmp_path / "a.jsonl"]) == read_rows([tmp_path / "a.parquet"]) == rows
    assert read_rows([tmp_path / "a.jsonl", tmp_path / "a.parquet"]) == rows * 2


def test_files_that_hold_no_rows_are_refused(tmp_path: Path) -> None:
    for name, content in (("cut.jsonl", '{"text": "on'), ("cut.parquet", "PAR1"), ("empty.jsonl", "\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=rf"{name}(.|\n)*fetch it again"):
            read_rows([tmp_path / name])
