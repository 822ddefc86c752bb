"""The DeepSpeed file of a run is read as one that nobody vouches for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unipool_dist.config.deepspeed import read_deepspeed_config
from unipool_dist.errors import ConfigError


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"zero_optimization": ' * 100 + "1" + "}" * 100,
        "[]",
        "null",
        "{}",
        '{"zero_optimization": []}',
        '{"zero_optimization": {"stage": "x"}}',
        '{"zero_optimization": {"reduce_bucket_size": ' + "9" * 5000 + "}}",
        '{"zero_optimization": {"reduce_bucket_size": 1e400}}',
        '{"\\u001b[2J": 1, "zero_optimization": {"\\u202e": 2}}',
        "{" + ",".join(f'"k{number}": 1' for number in range(10_000)) + ', "zero_optimization": {}}',
    ],
    ids=range(11),
)
def test_every_other_content_is_one_short_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "zero.json"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_deepspeed_config(str(path))
    assert len(str(caught.value)) < 800
    assert str(caught.value).replace("\n", "").isprintable()


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "missing"])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "zero.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(ConfigError, match=r"optimizer\.deepspeed="):
        read_deepspeed_config(str(path))
