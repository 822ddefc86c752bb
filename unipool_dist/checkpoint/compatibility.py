"""Whether a checkpoint can be resumed under a configuration, and what the change of configuration means. Pure.

Free to change are the layout (``parallel``, pool sizes, micro-batch size, ZeRO), logging, evaluation and paths. What
decides the shape of the model or the tokens it sees must be equal. Anything else, such as the learning rate, may
change, and is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from unipool_dist.checkpoint.progress import DataIdentity
from unipool_dist.config import Config
from unipool_dist.errors import CheckpointError

_SHAPE = (
    "model.num_layers",
    "model.hidden_size",
    "model.ffn_hidden_size",
    "model.num_attention_heads",
    "model.num_query_groups",
    "model.sequence_length",
    "model.vocab_size",
    "model.rotary_base",
    "model.norm_epsilon",
    "pool.num_experts",
    "pool.top_k",
    "pool.layers_per_group",
    "pool.router",
)
_BIAS = "pool.balance.bias_rate"
"""Whether it is 0 decides whether routers have a bias."""
_RUN = ("train.global_batch_size", "train.seed", "data.weights", "optimizer.name")
_ANYWHERE = (
    "parallel.",
    "pool.parallel_size",
    "pool.stages_per_group",
    "model.vocab_divisor",
    "data.path",
    "data.verify",
    "train.micro_batch_size",
    "optimizer.deepspeed",
    "log.",
    "run.",
    "checkpoint.",
)
"""How and where a run is made, not what it is."""
_FREE = (*_ANYWHERE, "pool.router_init_std", "model.init_std", "train.eval_")


def check_compatible(saved: Config, saved_data: DataIdentity, now: Config, now_data: DataIdentity) -> list[str]:
    """Return one line for each change that is possible but alters the training from here on.

    Both configurations are resolved. A checkpoint that knows no corpus, made from an exported model, only has to agree
    in shape and tokenizer.

    Raises:
        CheckpointError: the model's shape, tokenizer or data differ; all differing fields are named.
    """
    before, after = _flat(saved), _flat(now)
    begins = saved_data.content_hash is None
    refused = shape_differences(saved, now) + ([] if begins else _differences(before, after, _RUN))
    if saved_data.tokenizer_hash is not None and saved_data.tokenizer_hash != now_data.tokenizer_hash:
        refused.append(f"tokenizer of data.path={now.data.path}: another one than the checkpoint's")
    elif not begins and saved_data.content_hash != now_data.content_hash:
        refused.append(f"corpus at data.path={now.data.path}: other tokens than the checkpoint's run was trained on")
    if not begins and saved.optimizer.name == "sgd" and (saved.optimizer.momentum > 0) != (now.optimizer.momentum > 0):
        refused.append(
            f"optimizer.momentum: {saved.optimizer.momentum} in the checkpoint, {now.optimizer.momentum} now"
        )
    if refused:
        raise CheckpointError(
            "this run cannot be resumed from the checkpoint, because these differ:\n  "
            + "\n  ".join(refused)
            + "\nSet them back, or start a new run in another run.dir"
        )
    if begins:
        return []
    return [
        f"{name}: {before[name]} until now, {after[name]} from here on"
        for name in before
        if before[name] != after[name] and not name.startswith(_FREE)
    ]


def shape_differences(saved: Config, now: Config) -> list[str]:
    """One line for each field in which the models of two resolved configurations differ."""
    before, after = _flat(saved), _flat(now)
    differences = _differences(before, after, _SHAPE)
    if (before[_BIAS] > 0) != (after[_BIAS] > 0):
        differences += _differences(before, after, (_BIAS,))
    return differences


def run_differences(begun: Config, now: Config) -> list[str]:
    """One line for each field by which two resolved configurations describe different runs, from the first step on.

    ``model.vocab_size`` counts only if both have one: it may come from the corpus.
    """
    before, after = _flat(begun), _flat(now)
    return [
        f"{name}: {before[name]} in the run, {after[name]} now"
        for name in before
        if before[name] != after[name]
        and not name.startswith(_ANYWHERE)
        and not (name == "model.vocab_size" and None in (before[name], after[name]))
    ]


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    return [
        f"{name}: {before[name]} in the checkpoint, {after[name]} now" for name in names if before[name] != after[name]
    ]


def _flat(config: Config) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for section, fields in config.model_dump(mode="json").items():
        for name, value in fields.items():
            if name == "balance":
                values |= {f"{section}.{name}.{inner}": item for inner, item in value.items()}
            else:
                values[f"{section}.{name}"] = value
    return values
