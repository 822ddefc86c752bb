"""What lands in a run's files, and that a resumed run's files read as if it had never stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.errors import NonFiniteError, UnipoolError
from unipool_dist.observe.jsonlines import read_json_lines
from unipool_dist.observe.metrics import TRAIN_KEYS, MetricsWriter
from unipool_dist.observe.tensorboard_sink import TensorBoardSink

COUNTS_LE = np.array([[3, 1], [0, 4]], dtype=np.int64)


def record_of(step: int, **values: Any) -> dict[str, float | int]:
    return dict.fromkeys(TRAIN_KEYS, 0.5) | {"step": step, "tokens": 64 * step} | values


def write_steps(run_dir: Path, first: int, last: int, resume_from_step: int | None = None) -> None:
    writer = MetricsWriter(run_dir, resume_from_step=resume_from_step)
    for step in range(first, last + 1):
        writer.train(record_of(step, loss=10.0 - step))
        writer.validation(step, {"web": 3.0}, {"web": 1.5})
        writer.usage(step, COUNTS_LE * step)
    writer.close()


def test_lines_have_the_documented_keys_and_are_on_disk_at_once(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    writer.train(record_of(1, loss=np.float32(2.5), memory_bytes=np.int64(7)))
    writer.validation(1, {"web": 3.0, "code": 2.0}, {"web": 1.5, "code": 1.0})
    train, validation = read_json_lines(tmp_path / "metrics.jsonl")  # before close
    assert train == record_of(1, loss=2.5, memory_bytes=7)
    assert validation == {
        "step": 1,
        "validation": {"web": 3.0, "code": 2.0},
        "bits_per_byte": {"web": 1.5, "code": 1.0},
    }
    writer.usage(1, COUNTS_LE)
    assert read_json_lines(tmp_path / "expert_usage.jsonl") == [{"step": 1, "num_pools": 1, "counts": [[3, 1], [0, 4]]}]
    writer.close()
    writer.close()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float32("nan")])
def test_non_finite_numbers_are_refused_by_name_and_leave_no_line(tmp_path: Path, bad: float) -> None:
    writer = MetricsWriter(tmp_path)
    with pytest.raises(NonFiniteError, match=r"step 3: grad_norm=(nan|inf)"):
        writer.train(record_of(3, grad_norm=bad))
    with pytest.raises(NonFiniteError, match=r"step 3: validation\.web=(nan|inf)"):
        writer.validation(3, {"web": bad}, {"web": 1.0})
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_record_without_a_documented_key_is_a_mistake(tmp_path: Path) -> None:
    record = record_of(1)
    del record["grad_norm"]
    with pytest.raises(AssertionError, match="grad_norm"):
        MetricsWriter(tmp_path).train(record)


def test_resuming_gives_the_files_of_an_uninterrupted_run(tmp_path: Path) -> None:
    write_steps(tmp_path / "whole", 1, 6)
    write_steps(tmp_path / "parts", 1, 5)
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # cut short by a crash
    write_steps(tmp_path / "parts", 4, 6, resume_from_step=3)
    names = ["expert_usage.jsonl", "metrics.jsonl"]
    for name in names:
        assert (tmp_path / "parts" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == names


def test_a_new_run_replaces_the_records_of_an_old_one(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 5)
    write_steps(tmp_path, 1, 2)
    assert {record["step"] for record in read_json_lines(tmp_path / "metrics.jsonl")} == {1, 2}


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(UnipoolError, match="line 2"):
        read_json_lines(tmp_path / "metrics.jsonl")


def test_tensorboard_holds_the_same_numbers_and_a_heat_map(tmp_path: Path) -> None:
    writer = TensorBoardSink(RunDirectory(tmp_path).tensorboard, resume_from_step=None)
    for step in (1, 2):
        writer.train(record_of(step, loss=4.0 / step))
    writer.validation(2, {"web": 3.0}, {"web": 1.5})
    writer.usage(2, COUNTS_LE, 1)
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 4.0), (2, 2.0)]
    assert events.Scalars("validation/bits_per_byte/web")[0].value == 1.5
    assert events.Scalars("experts/dead_share")[0].value == 0.0
    image = events.Images("experts/assignments")[0]
    assert (image.width, image.height) == (24, 24)


def test_tensorboard_does_not_show_what_a_resumed_run_writes_anew(tmp_path: Path) -> None:
    for steps, resume_from_step in ((range(1, 6), None), (range(4, 5), 3)):
        writer = TensorBoardSink(RunDirectory(tmp_path).tensorboard, resume_from_step=resume_from_step)
        for step in steps:
            writer.train(record_of(step))
        writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]


def test_lines_are_plain_json(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 1)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert isinstance(json.loads(line), dict)
