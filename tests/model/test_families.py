"""A second family, with tied embeddings: equal on every layout, resumed, exported; and a family of a user's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from safetensors.torch import load_file

from tests.checkpoint.support import load_step, save_step
from tests.parity.test_layouts import STEPS, check
from tests.support.training import batches_of, built, tiny_config, train_variants
from tests.support.workers import Workers, free_port
from unipool_dist.base.user_code import CODE_FOLDER_VARIABLE, trust
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.offline.export import export_model
from unipool_dist.checkpoint.offline.import_model import import_model, open_export
from unipool_dist.checkpoint.offline.locate import locate
from unipool_dist.checkpoint.offline.tensor_reader import TensorReader
from unipool_dist.comm.environment import Environment
from unipool_dist.comm.groups import process_groups
from unipool_dist.config import Plan
from unipool_dist.config.sections import ModelSection
from unipool_dist.errors import ConfigError
from unipool_dist.model.assembly import build_model
from unipool_dist.model.families import FAMILIES, inventory
from unipool_dist.model.families.llama import Llama
from unipool_dist.model.inventory import Inventory

# Of two experts for each token, as the norm after the experts cancels the score of a single one.
MODEL = ("model.family=sandwich", "pool.router=softmax", "pool.top_k=2")
SANDWICH = (*MODEL, "optimizer.name=sgd", "optimizer.momentum=0.9", "optimizer.clip_grad=0.05")
LAYOUTS: dict[int, list[tuple[str, ...]]] = {
    2: [("parallel.pp=2",), ("parallel.tp=2", "parallel.recompute=true")],
    3: [("parallel.pp=3", "pool.num_experts=18")],
    4: [("parallel.pp=2", "pool.parallel_size=4"), ("parallel.pp=2", "parallel.tp=2", "train.dtype=fp32")],
}


@pytest.mark.parametrize("world_size", LAYOUTS)
def test_every_layout_equals_one_process(workers: Workers, world_size: int) -> None:
    variants = [(*SANDWICH, *layout) for layout in LAYOUTS[world_size]]
    alone = [(*SANDWICH, *(o for o in layout if "num_experts" in o)) for layout in LAYOUTS[world_size]]
    (expected,) = workers.run(train_variants, 1, alone, [free_port() for _ in alone], STEPS)
    by_rank = workers.run(train_variants, world_size, variants, [free_port() for _ in variants], STEPS)
    for index, variant in enumerate(variants):
        check([results[index] for results in by_rank], expected[index], " ".join(variant))
        assert "output.weight" not in expected[index].dense_weights


def _learn(environment: Environment) -> list[float]:
    plan = tiny_config(*MODEL)
    with built(plan, environment) as (groups, _, train_step):
        return [train_step.run(step, batches_of(plan, groups, step)).loss for step in range(20)]


def test_it_learns(workers: Workers) -> None:
    (losses,) = workers.run(_learn, 1)
    assert losses[-1] < losses[0] - 0.5


def _train(environment: Environment, overrides: tuple[str, ...], run_dir: Path, first: int) -> tuple[list[float], bool]:
    """Three steps from step ``first``, saved as that of its number; whether both ends then have the same embedding."""
    plan = tiny_config(*SANDWICH, *overrides, world_size=environment.world_size)
    with built(plan, environment) as (groups, model, train_step):
        if first:
            assert load_step(groups, model, train_step, run_dir, first) == first
        steps = range(first, first + 3)
        losses = [train_step.run(step, batches_of(plan, groups, step)).loss for step in steps]
        save_step(plan, groups, model, train_step, run_dir, first + 3)
        before = [copy.detach().clone() for copy in model.tied.copies]
        model.tied.share()
        same = all(copy.equal(old) for copy, old in zip(model.tied.copies, before, strict=True))
        return losses, same


def test_it_is_resumed_on_another_layout_exported_and_imported(workers: Workers, tmp_path: Path) -> None:
    pp2 = ("parallel.pp=2", "train.dtype=bf16")
    uninterrupted = workers.run(_train, 1, (), tmp_path / "one", 0)[0][0]
    uninterrupted += workers.run(_train, 1, (), tmp_path / "one", 3)[0][0]
    ranks = workers.run(_train, 2, pp2[:1], tmp_path / "pp2", 0)
    rest, _ = workers.run(_train, 1, (), tmp_path / "pp2", 3)[0]
    assert [*ranks[0][0], *rest] == pytest.approx(uninterrupted, rel=1e-5)
    ranks += workers.run(_train, 2, pp2, tmp_path / "pp2", 6)
    assert all(same for _, same in ranks)

    masters = TensorReader(CheckpointDirectory(tmp_path / "pp2").folder(9)).tensors
    assert "master/embedding.weight" in masters and "master/output.weight" not in masters
    record, _ = export_model(locate(tmp_path / "pp2", 9), tmp_path / "export", "fp32", 1 << 30)
    tensors = inventory(tiny_config(*SANDWICH))
    assert load_file(tmp_path / "export" / "model.safetensors").keys() == {spec.name for spec in tensors}
    assert record.num_parameters == sum(spec.numel for spec in tensors)
    assert import_model(open_export(tmp_path / "export"), tmp_path / "imported").steps() == [0]


def test_the_configuration_knows_every_family() -> None:
    named, _ = get_args(ModelSection.model_fields["family"].annotation)
    assert set(get_args(named)) == set(FAMILIES)


OWN = """
from unipool_dist.model.families.llama import Llama

class Untied(Llama):
    pass

class NoFamily:
    pass
"""


def test_a_family_of_ones_own_is_a_class_in_ones_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_family.py").write_text(OWN)
    monkeypatch.setenv(CODE_FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(ConfigError, match="somebody else may have written"):
        inventory(tiny_config("model.family=own_family:Untied"))
    trust(["own_family:Untied", "own_family:NoFamily"])
    assert list(inventory(tiny_config("model.family=own_family:Untied"))) == list(inventory(tiny_config()))
    with pytest.raises(ConfigError, match="must be a class derived from"):
        inventory(tiny_config("model.family=own_family:NoFamily"))
    with pytest.raises(ConfigError, match=r"model\.family"):
        tiny_config("model.family=bert")


class Forgetful(Llama):
    def inventory(self, plan: Plan) -> Inventory:
        tensors = super().inventory(plan)
        return replace(tensors, last=tensors.last[1:])


def _build_forgetful(environment: Environment) -> str:
    plan = tiny_config(f"model.family={Forgetful.__module__}:Forgetful")
    trust([plan.model.family])
    with process_groups(plan, environment) as groups:
        with pytest.raises(ConfigError) as error:
            build_model(plan, groups)
        return str(error.value)


def test_a_family_that_contradicts_itself_is_refused(workers: Workers) -> None:
    assert "differ in final_norm.weight; correct the family" in workers.run(_build_forgetful, 1)[0]
