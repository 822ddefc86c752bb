"""A profile is read as a file that nobody vouches for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from unipool_dist.errors import ConfigError
from unipool_dist.jobs.profile import load_profile

MERGES = "k0: &k0 {a: 1}\n" + "".join(f"k{i}: &k{i} {{<<: [{','.join([f'*k{i - 1}'] * 9)}]}}\n" for i in range(1, 30))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partition: long\npartition: debug\n", "partition is there twice, in lines 1 and 2"),
        ("environment: {A: x, A: y}\n", "A is there twice"),
        ("cpus_per_task: 010\n", "010 is another number in YAML 1.1"),
        ("memory_per_node: 1:40\n", "1:40 is another number"),
        ("partition: !!python/name:os.system\n", "the tag !!python/name:os.system is not taken"),
        ("setup: &a [*a]\n", "*a is inside the node that it refers to"),
        ("setup: " + "[" * 1000, "nested more than 64 deep"),
        ("cpus_per_task: " + "9" * 5000, "a number of more than 64 characters"),
        (MERGES, "those that aliases repeat included"),
        ("a: \x1b[2J\n", "x001b"),
        ('"\\e[2J": 1\n', "\\x1b[2J: Extra inputs"),
        ("".join(f"k{n}: 1\n" for n in range(5000)), "and 4,980 more"),
        ("[]\n", "must be a mapping"),
    ],
)
def test_what_is_wrong_is_told_soon_and_in_short(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load_profile(path)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 3000 and str(caught.value).replace("\n", "").isprintable()
    assert time.process_time() - began < 10


def test_text_is_text_and_switches_are_switches(tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text("exclusive: yes\npartition: on\naccount: 2026-11-27\nenvironment: {NCCL_DEBUG: off}\n")
    profile = load_profile(path)
    assert (profile.exclusive, profile.partition, profile.account) == (True, "on", "2026-11-27")
    assert profile.environment == {"NCCL_DEBUG": "off"}


@pytest.mark.parametrize("path", [Path("/dev/zero"), Path("/"), Path("missing"), Path("a\0b")])
def test_what_is_no_regular_file_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_profile(path)
