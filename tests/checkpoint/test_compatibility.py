"""What may change between a checkpoint and the run that resumes from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from unipool_dist.checkpoint.compatibility import check_compatible, run_differences
from unipool_dist.checkpoint.progress import DataIdentity, read_config
from unipool_dist.config import Config, config_text, dump_config, load_config, resolve
from unipool_dist.config.roles import Role, is_for_inference, role_of, settings_of
from unipool_dist.errors import CheckpointError, ConfigError
from unipool_dist.inference.layout import inference_plan
from unipool_dist.report.summary import _fields

ZERO0 = Path(__file__).parents[2] / "ds_configs" / "zero0.json"
DATA = DataIdentity(tokenizer_hash="t", content_hash="c", segments=(100,))


def config(*overrides: str, world_size: int = 1) -> Config:
    return resolve(load_config(None, ["model.vocab_size=512", *overrides]), world_size).config


def check(*overrides: str, data: DataIdentity = DATA, saved: DataIdentity = DATA, world_size: int = 1) -> list[str]:
    return check_compatible(config(), saved, config(*overrides, world_size=world_size), data)


@pytest.mark.parametrize(
    "override",
    [
        "model.family=sandwich",
        "model.num_layers=4",
        "model.hidden_size=64",
        "model.ffn_hidden_size=100",
        "model.num_attention_heads=2",
        "model.num_query_groups=2",
        "model.sequence_length=128",
        "model.vocab_size=1024",
        "model.rotary_base=500000.0",
        "model.norm_epsilon=1e-6",
        "pool.num_experts=32",
        "pool.top_k=2",
        "pool.layers_per_group=4",
        "pool.router=softmax",
        "pool.normalize_gates=true",
        "pool.balance.bias_rate=0.001",
        "train.global_batch_size=32",
        "train.seed=1",
        "data.weights={code: 1.0}",
        "optimizer.name=sgd",
    ],
)
def test_another_shape_or_order_of_data_is_refused_by_name(override: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        check(override)
    name, _, _ = override.partition("=")
    assert f"{name}: " in str(refused.value) and "now" in str(refused.value)


def test_all_differing_fields_are_named() -> None:
    other = DataIdentity(tokenizer_hash="other", content_hash="other", segments=(100,))
    with pytest.raises(CheckpointError) as refused:
        check("model.hidden_size=64", "train.seed=1", data=other)
    for part in ("model.hidden_size: 128 in the checkpoint, 64 now", "train.seed: 1234 in", "tokenizer of data.path"):
        assert part in str(refused.value)


def test_another_corpus_with_the_same_tokenizer_is_refused() -> None:
    with pytest.raises(CheckpointError, match="other tokens"):
        check(data=DATA.model_copy(update={"content_hash": "other"}))


def test_states_that_the_checkpoint_lacks_are_refused() -> None:
    saved = config("optimizer.name=sgd")
    with pytest.raises(CheckpointError, match=r"optimizer.momentum: 0.0 in the checkpoint, 0.9 now"):
        check_compatible(saved, DATA, config("optimizer.name=sgd", "optimizer.momentum=0.9"), DATA)


@pytest.mark.parametrize(
    ("overrides", "world_size"),
    [
        (("parallel.pp=2", "parallel.tp=2", "pool.parallel_size=4", "train.micro_batch_size=1"), 4),
        (("parallel.pp=2", "pool.stages_per_group=1", "parallel.recompute=true"), 2),
        ((f"optimizer.deepspeed={ZERO0}", "train.eval_interval=7", "log.interval=3", "run.dir=elsewhere"), 1),
        (("checkpoint.interval=7", "checkpoint.asynchronous=false", "data.path=moved"), 1),
    ],
)
def test_layout_and_bookkeeping_change_without_a_word(overrides: tuple[str, ...], world_size: int) -> None:
    assert check(*overrides, world_size=world_size) == []


def test_other_changes_are_told() -> None:
    assert check("optimizer.lr=5e-4", "train.steps=200", "pool.balance.alpha=0.1") == [
        "pool.balance.alpha: 0.01 until now, 0.1 from here on",
        "optimizer.lr: 0.001 until now, 0.0005 from here on",
        "train.steps: 100 until now, 200 from here on",
    ]


def test_the_rate_of_a_bias_may_change_but_not_whether_there_is_one() -> None:
    saved = config("pool.balance.bias_rate=0.001")
    told = check_compatible(saved, DATA, config("pool.balance.bias_rate=0.01"), DATA)
    assert told == ["pool.balance.bias_rate: 0.001 until now, 0.01 from here on"]
    imported = DataIdentity(tokenizer_hash="t", content_hash=None, segments=())
    for identity in (DATA, imported):
        with pytest.raises(CheckpointError, match=r"pool\.balance\.bias_rate: 0\.001 in the checkpoint, 0\.0 now"):
            check_compatible(saved, identity, config(), DATA)


def test_an_imported_model_takes_any_corpus_of_its_tokenizer() -> None:
    imported = DataIdentity(tokenizer_hash="t", content_hash=None, segments=())
    assert check("train.global_batch_size=32", "optimizer.name=sgd", "train.seed=9", saved=imported) == []
    with pytest.raises(CheckpointError, match="hidden_size"):
        check("model.hidden_size=64", saved=imported)
    with pytest.raises(CheckpointError, match="tokenizer"):
        check(saved=imported, data=DATA.model_copy(update={"tokenizer_hash": "other"}))


def test_an_imported_model_may_be_trained_on_longer_sequences() -> None:
    imported = DataIdentity(tokenizer_hash="t", content_hash=None, segments=())
    assert check("model.sequence_length=512", "data.weights={code: 1.0}", saved=imported) == []


# Changes that a resume is allowed to make.

FREED = {"train.global_batch_size": "32", "data.weights": "{code: 1.0}", "model.sequence_length": "128"}


@pytest.mark.parametrize("name", FREED)
def test_a_refused_change_names_its_way_out_and_is_told_once_it_is_allowed(name: str) -> None:
    now = config(f"{name}={FREED[name]}")
    with pytest.raises(CheckpointError, match=rf"from step 51 on, or later, .* with --allow {name}"):
        check_compatible(config(), DATA, now, DATA, step=50)
    (told,) = check_compatible(config(), DATA, now, DATA, step=50, allowed=[name])
    assert told.startswith(f"{name}: ") and told.endswith("now and from here on")
    with pytest.raises(CheckpointError, match=f"--allow {name}"):
        check_compatible(config(), DATA, now, DATA, step=50, allowed=[min(set(FREED) - {name})])


def test_another_text_may_be_allowed_but_no_other_tokenizer() -> None:
    text = DATA.model_copy(update={"content_hash": "other"})
    with pytest.raises(CheckpointError, match=r"--allow data\.path"):
        check(data=text)
    (told,) = check_compatible(config(), DATA, config(), text, allowed=["data.path"])
    assert told.startswith("corpus at data.path=data/default: other tokens")
    with pytest.raises(CheckpointError, match="another one than the checkpoint's\nSet them back, or start a new run"):
        check_compatible(
            config(), DATA, config(), text.model_copy(update={"tokenizer_hash": "u"}), allowed=["data.path"]
        )


def test_a_field_that_cannot_be_allowed_has_a_way_out_too() -> None:
    with pytest.raises(CheckpointError, match=r"trained weights: `unipool-dist checkpoint import RUN NEW_RUN`"):
        check("train.seed=1", "train.global_batch_size=32")
    with pytest.raises(CheckpointError, match=r"start a new run in another run\.dir"):
        check("model.hidden_size=64", "train.global_batch_size=32")


def test_what_was_trained_is_compared_and_what_is_planned_may_change() -> None:
    staged = "stages=[{from_step: 51, train.global_batch_size: 32}]"
    for saved, now in ((config(staged), config()), (config(), config(staged))):
        (told,) = check_compatible(saved, DATA, now, DATA, step=50)
        assert told.startswith("stages: [") and "from_step" in told, "what is still to come may change"
        with pytest.raises(CheckpointError, match="global_batch_size: "):
            check_compatible(saved, DATA, now, DATA, step=51)
    assert check_compatible(config(staged), DATA, config(staged), DATA, step=70) == []
    assert check_compatible(config(staged), DATA, config("train.global_batch_size=32"), DATA, step=51) == []


def test_a_field_that_this_version_does_not_know_is_refused(tmp_path: Path) -> None:
    text = config_text(config()).replace("model:", "model:\n  window: 7")
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"model\.window: no such field in this version, has 7"):
        read_config(tmp_path)


def test_a_field_that_the_checkpoint_lacks_counts_as_what_its_version_did(tmp_path: Path) -> None:
    values = yaml.safe_load(config_text(config()))
    del values["optimizer"]["router_lr_scale"], values["pool"]["balance"]["bias_rate"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    saved = read_config(tmp_path)
    assert check_compatible(saved, DATA, config(), DATA) == []
    assert check_compatible(saved, DATA, config("optimizer.router_lr_scale=0.5"), DATA) == [
        "optimizer.router_lr_scale: 1.0 until now, 0.5 from here on"
    ]
    with pytest.raises(CheckpointError, match=r"bias_rate: 0\.0 in the checkpoint, 0\.1 now"):
        check_compatible(saved, DATA, config("pool.balance.bias_rate=0.1"), DATA)


def test_a_trained_model_is_used_as_in_the_stage_of_its_checkpoint(tmp_path: Path) -> None:
    for step in (4, 30):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    stage = "{from_step: 20, model.sequence_length: 512, data.path: later, train.micro_batch_size: 1}"
    dump_config(config(f"stages=[{stage}]"), tmp_path / "config.yaml")
    newest, early = inference_plan(tmp_path, (), 2), inference_plan(tmp_path, (), 2, step=4)
    assert (newest.model.sequence_length, newest.data.path) == (512, "later")
    assert (early.model.sequence_length, early.data.path) == (256, "data/default")
    assert newest.config.stages == [] and newest.train.micro_batch_size == 1
    moved = inference_plan(tmp_path, ["data.path=elsewhere"], 2)
    assert moved.data.path == "elsewhere", "an override is of the model that is used"


# Another legal value of every field of the configuration.
CHANGES = {
    "model.family": "sandwich",
    "model.num_layers": "4",
    "model.hidden_size": "64",
    "model.ffn_hidden_size": "100",
    "model.num_attention_heads": "2",
    "model.num_query_groups": "2",
    "model.sequence_length": "128",
    "model.vocab_size": "1024",
    "model.vocab_divisor": "64",
    "model.rotary_base": "500000.0",
    "model.norm_epsilon": "1e-6",
    "model.init_std": "0.02",
    "pool.num_experts": "32",
    "pool.top_k": "2",
    "pool.layers_per_group": "4",
    "pool.parallel_size": "2",
    "pool.stages_per_group": "1",
    "pool.placement": "mine:Scattered",
    "pool.placement_steps": "[5]",
    "pool.normalize_gates": "true",
    "pool.router": "softmax",
    "pool.router_init_std": "0.5",
    "pool.balance.loss": "layer",
    "pool.balance.alpha": "0.1",
    "pool.balance.window": "microbatch",
    "pool.balance.scores": "raw",
    "pool.balance.bias_rate": "0.1",
    "parallel.pp": "2",
    "parallel.tp": "2",
    "parallel.dp": "2",
    "parallel.schedule": "lockstep_gpipe",
    "parallel.recompute": "true",
    "parallel.timeout_s": "100.0",
    "data.path": "moved",
    "data.weights": "{code: 1.0}",
    "data.order": "computed",
    "data.verify": "hash",
    "data.reset_at_documents": "true",
    "optimizer.name": "sgd",
    "optimizer.lr": "2e-3",
    "optimizer.min_lr": "1e-5",
    "optimizer.router_lr_scale": "2.0",
    "optimizer.warmup_steps": "5",
    "optimizer.decay": "linear",
    "optimizer.wsd_decay_steps": "20",
    "optimizer.wsd_decay": "cosine",
    "optimizer.weight_decay": "0.1",
    "optimizer.beta1": "0.8",
    "optimizer.beta2": "0.99",
    "optimizer.epsilon": "1e-6",
    "optimizer.momentum": "0.9",
    "optimizer.clip_grad": "2.0",
    "optimizer.deepspeed": str(ZERO0),
    "train.steps": "200",
    "train.global_batch_size": "32",
    "train.micro_batch_size": "2",
    "train.seed": "1",
    "train.dtype": "bf16",
    "train.eval_interval": "7",
    "train.eval_sequences": "8",
    "log.interval": "3",
    "log.tensorboard": "false",
    "log.sinks": "[wandb]",
    "log.online": "true",
    "log.project": "other",
    "log.callbacks": "['my.module:Mine']",
    "log.profile_steps": "3-4",
    "log.profile_ranks": "[1]",
    "log.memory_step": "5",
    "checkpoint.interval": "7",
    "checkpoint.keep_last": "3",
    "checkpoint.keep_every": "10",
    "checkpoint.asynchronous": "false",
    "checkpoint.verify": "size",
    "run.dir": "elsewhere",
    "run.time_limit_s": "60.0",
    "run.watchdog_s": "50.0",
    "stages": "[{from_step: 20, train.global_batch_size: 32}]",
}
BASE = {"pool.balance.bias_rate": "0.001", "pool.stages_per_group": "2", "parallel.pp": "2"}


def changed(name: str) -> tuple[Config, Config]:
    """Two resolved configurations that differ in one field, as far as the others allow."""
    base = BASE if name == "pool.stages_per_group" else {"pool.balance.bias_rate": "0.001"}
    before = config(*(f"{key}={value}" for key, value in base.items()), world_size=2)
    after = config(*(f"{key}={value}" for key, value in (base | {name: CHANGES[name]}).items()), world_size=2)
    return before, after


def test_every_field_has_a_change() -> None:
    assert set(CHANGES) == set(settings_of(Config))


@pytest.mark.parametrize("name", CHANGES)
def test_a_resume_treats_every_field_by_its_role(name: str) -> None:
    role, (before, after) = role_of(settings_of(Config)[name]), changed(name)
    if role.is_refused_on_resume:
        with pytest.raises(CheckpointError, match=f"{name}: "):
            check_compatible(before, DATA, after, DATA)
    else:
        told = check_compatible(before, DATA, after, DATA)
        assert [line.partition(":")[0] for line in told] == ([name] if role is Role.RUN else [])


@pytest.mark.parametrize("name", CHANGES)
def test_an_experiment_treats_every_field_by_its_role(name: str) -> None:
    before, after = changed(name)
    differing = [line.partition(":")[0] for line in run_differences(before, after)]
    assert (name in differing) == role_of(settings_of(Config)[name]).is_part_of_the_run
    assert bool(differing) == (name in differing)


@pytest.mark.parametrize("name", CHANGES)
def test_a_report_compares_every_field_by_its_role(name: str) -> None:
    before, after = (_fields(config) for config in changed(name))
    compared = role_of(settings_of(Config)[name]).is_compared and name != "train.seed"
    assert (name in before) == compared and (before != after) == compared


@pytest.mark.parametrize("name", CHANGES)
def test_inference_takes_every_field_by_its_mark(name: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-00000004").mkdir(parents=True)
    dump_config(config(), tmp_path / "config.yaml")
    override = f"{name}={CHANGES[name]}"
    if is_for_inference(settings_of(Config)[name]):
        inference_plan(tmp_path, [override], 2)
    else:
        with pytest.raises(ConfigError) as refused:
            inference_plan(tmp_path, [override], 2)
        assert f"{override}: cannot be set for a model that is trained" in str(refused.value)
