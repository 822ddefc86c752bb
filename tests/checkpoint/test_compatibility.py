"""What may change between a checkpoint and the run that resumes from it."""

from __future__ import annotations

import pytest

from unipool_dist.checkpoint.compatibility import check_compatible
from unipool_dist.checkpoint.progress import DataIdentity
from unipool_dist.config import Config, load_config, resolve_config
from unipool_dist.config.fields import fields_of
from unipool_dist.errors import CheckpointError

DATA = DataIdentity(tokenizer_hash="t", content_hash="c", segments=(100,))


def config(*overrides: str, world_size: int = 1) -> Config:
    return resolve_config(load_config(None, ["model.vocab_size=512", *overrides]), world_size)


def check(*overrides: str, data: DataIdentity = DATA, saved: DataIdentity = DATA, world_size: int = 1) -> list[str]:
    return check_compatible(config(), saved, config(*overrides, world_size=world_size), data)


@pytest.mark.parametrize(
    "override",
    [
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
        (("optimizer.deepspeed=other.json", "train.eval_interval=7", "log.interval=3", "run.dir=elsewhere"), 1),
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


def test_every_field_is_looked_at() -> None:
    """A field added to the configuration is told of unless somebody has decided otherwise."""
    from unipool_dist.checkpoint.compatibility import _FREE, _RUN, _SHAPE, _flat

    known = set(_flat(config()))
    names = {name for name, _ in fields_of(Config)}
    assert {name for name in names if not any(other.startswith(f"{name}.") for other in names)} == known
    assert set(_SHAPE + _RUN) <= known
    assert all(any(name.startswith(free) for name in known) for free in _FREE)
