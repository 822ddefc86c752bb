"""The contract of a sharded optimizer: two implementations step alike, and a run with either goes through a checkpoint
of either."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.checkpoint.support import load_step, save_step
from tests.support.plain_zero1 import NAME, PlainZero1
from tests.support.training import batches_of, built, tiny_config
from tests.support.workers import Workers, free_port
from unipool_dist.base.user_code import trust
from unipool_dist.comm.environment import Environment
from unipool_dist.engine.optim.deepspeed_zero import VERSION, DeepSpeedZero, forget_pynvml
from unipool_dist.engine.optim.sharded import OPTIMIZERS
from unipool_dist.errors import ConfigError

PLAIN = f"optimizer.name={NAME}"
RESUME = "resume"
STEPS = 2
CLIP = ("optimizer.clip_grad=0.5", "optimizer.router_lr_scale=3.0")  # below every norm, so that all steps are scaled
ZERO0 = f"optimizer.deepspeed={Path(__file__).parents[2] / 'ds_configs/zero0.json'}"


@dataclass
class Seen:
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    weights: list[dict[str, np.ndarray]] = field(default_factory=list)


def _train(environment: Environment, variants: list[tuple[str, ...]], ports: list[int], folder: Path) -> list[Seen]:
    """What each variant has after every step. The first is saved after STEPS; what is to resume it begins there."""
    trust([NAME])
    results = []
    for index, (overrides, port) in enumerate(zip(variants, ports, strict=True)):
        config = tiny_config(*(item for item in overrides if item != RESUME), world_size=environment.world_size)
        with built(config, replace(environment, master_port=port)) as (groups, model, train_step):
            kind = PlainZero1 if config.optimizer.name == NAME else DeepSpeedZero
            assert {type(optimizer) for optimizer in train_step.optimizer._optimizers} == {kind}
            seen = Seen()
            first = load_step(groups, model, train_step, folder, STEPS) if RESUME in overrides else 0
            for step in range(first, 2 * STEPS):
                if step == STEPS and index == 0:
                    save_step(config, groups, model, train_step, folder, STEPS)
                result = train_step.run(step, batches_of(config, groups, step))
                seen.losses.append(result.loss)
                seen.norms.append(result.grad_norm)
                named = [*model.named_dense_parameters(), *model.named_expert_parameters()]
                seen.weights.append({name: p.detach().float().numpy().copy() for name, p in named})
            results.append(seen)
    return results


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_two_implementations_step_alike_and_resume_each_other(workers: Workers, tmp_path: Path, dtype: str) -> None:
    common = ("pool.parallel_size=1", f"train.dtype={dtype}")  # both ranks have all experts: an expert group of two
    exact = (*common, "optimizer.clip_grad=0")
    variants = [(*exact, PLAIN), exact, (*exact, PLAIN, RESUME), (*exact, RESUME), (*exact, ZERO0, RESUME)]
    variants += [(*common, *CLIP), (*common, *CLIP, PLAIN)]
    for rank in workers.run(_train, 2, variants, [free_port() for _ in variants], tmp_path):
        plain, *others, clipped, plain_clipped = rank
        for seen in others:
            first = 2 * STEPS - len(seen.losses)
            assert seen.losses == plain.losses[first:]
            for found, expected in zip(seen.weights, plain.weights[first:], strict=True):
                for name, weight in expected.items():
                    np.testing.assert_array_equal(found[name], weight, err_msg=name)
        # DeepSpeed's side sums the norm in fp32 by parameter, the plain one in fp64: the factor of the clipping
        # differs in its last bits, and the steps after the first with it.
        assert plain_clipped.norms[0] == pytest.approx(clipped.norms[0], rel=1e-6)
        assert plain_clipped.losses == pytest.approx(clipped.losses, rel=1e-5 if dtype == "fp32" else 1e-3)


def test_an_optimizer_that_is_none_is_refused() -> None:
    trust(["tests.support.training:RankResult"])
    with pytest.raises(ConfigError, match="must be a class derived from"):
        OPTIMIZERS["tests.support.training:RankResult"]
    with pytest.raises(ConfigError, match=r"optimizer\.name=adam must be adamw, sgd or module:Class"):
        tiny_config("optimizer.name=adam")


def test_deepspeed_is_pinned_to_the_version_whose_internals_are_used() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert f"deepspeed=={VERSION}" in project["project"]["dependencies"]


def test_importing_the_optimizers_changes_nothing_in_the_process() -> None:
    program = (
        "import os, sys; before = dict(os.environ)\n"
        "import unipool_dist.engine.step, unipool_dist.checkpoint.saver\n"
        "from unipool_dist.engine.optim.deepspeed_zero import import_deepspeed\n"
        "assert 'deepspeed' not in sys.modules\n"
        "import_deepspeed()\n"
        "assert 'deepspeed' in sys.modules and dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_free_memory_of_a_gpu_named_by_its_uuid_is_not_asked_of_pynvml(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("cuda_accelerator")
    exec(
        "import os\nimport types\npynvml = types.SimpleNamespace()\n"
        "class Accelerator:\n"
        "    def available_memory(self):\n"
        "        return int(os.environ['CUDA_VISIBLE_DEVICES']) if pynvml else 7\n",
        vars(module),
    )
    monkeypatch.setitem(sys.modules, "cuda_accelerator", module)
    monkeypatch.setattr(module.Accelerator, "__module__", "cuda_accelerator")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5ebe9f43-ac33")
    accelerator = module.Accelerator()
    with pytest.raises(ValueError, match="invalid literal"):
        accelerator.available_memory()
    forget_pynvml(accelerator)
    assert accelerator.available_memory() == 7
    forget_pynvml("an accelerator without pynvml")
