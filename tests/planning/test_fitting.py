"""A run that the machine cannot hold is refused by arithmetic."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from unipool_dist.base import machine as machine_module
from unipool_dist.config import Plan, load_config, resolve
from unipool_dist.data import Corpus
from unipool_dist.data.corpora import Corpora
from unipool_dist.errors import ConfigError
from unipool_dist.run import fitting

GB = 10**9
CORPUS = cast(Corpus, SimpleNamespace(domains={"a": SimpleNamespace(train_tokens=100_000, train_documents=120)}))


def corpora(plan: Plan) -> Corpora:
    return Corpora(plan.stages, {plan.data.path: CORPUS})


def resolved(*overrides: str, world_size: int = 1) -> Plan:
    return resolve(load_config(None, ("model.vocab_size=1024", *overrides)), world_size)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(fitting, "machine_memory", lambda: 16 * GB)
    monkeypatch.setattr(fitting, "gpus_here", lambda _: [])
    return monkeypatch


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.hidden_size=1000000",),
        ("model.vocab_size=100000000",),
        ("model.num_layers=10000", "model.hidden_size=1024"),
        ("pool.num_experts=100000", "model.hidden_size=256"),
        ("model.sequence_length=100000000",),
        ("train.micro_batch_size=100000000", "train.global_batch_size=100000000"),
        ("train.steps=1000000000",),
    ],
    ids=lambda overrides: overrides[0],
)
def test_what_cannot_be_held_is_refused(machine: Any, overrides: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"this machine has 16\.0 GB of memory"):
        fitting.check_fits_here(resolved(*overrides), corpora(resolved(*overrides)))
    with pytest.raises(ConfigError, match=r"this machine has 16\.0 GB of memory"):
        fitting.check_rank_fits(resolved(*overrides), corpora(resolved(*overrides)), stage=0, device_bytes=None)


def test_processes_of_one_machine_count_together(machine: Any) -> None:
    half = ("model.hidden_size=2048", "pool.num_experts=8", "pool.parallel_size=1")
    fitting.check_fits_here(resolved(*half), corpora(resolved(*half)))
    config = resolved(*half, world_size=4)
    fitting.check_rank_fits(config, corpora(config), stage=0, device_bytes=None)
    with pytest.raises(ConfigError, match="the 4 processes would hold"):
        fitting.check_fits_here(config, corpora(config))


def test_on_gpus_their_memory_counts(machine: Any) -> None:
    large = resolved("model.num_layers=10000", "model.hidden_size=1024")
    machine.setattr(fitting, "gpus_here", lambda _: ["0"])
    fitting.check_fits_here(large, corpora(large))
    with pytest.raises(ConfigError, match=r"its GPU has 80\.0 GB"):
        fitting.check_rank_fits(large, corpora(large), stage=0, device_bytes=80 * GB)
    fitting.check_rank_fits(resolved(), corpora(resolved()), stage=0, device_bytes=80 * GB)


def test_the_tightest_control_group_limits(tmp_path: Path) -> None:
    own, root = tmp_path / "cgroup", tmp_path / "sys"
    (root / "job" / "step").mkdir(parents=True)
    (root / "memory" / "old").mkdir(parents=True)
    own.write_text("4:cpu,memory:/old\n1:cpu:/x\n0::/job/step\n")
    (root / "job" / "memory.max").write_text("5000\n")
    (root / "job" / "step" / "memory.max").write_text("max\n")
    (root / "memory" / "old" / "memory.limit_in_bytes").write_text("7000\n")
    assert sorted(machine_module._limits(own, root)) == [5000, 7000]
    assert machine_module._limits(tmp_path / "none", root) == []
    assert machine_module.machine_memory() > 10**8
