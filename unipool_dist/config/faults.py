"""Faults of a configuration as text: a line for each field that a user can correct."""

from __future__ import annotations

import difflib
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from unipool_dist.base.printable import listed, printable, short
from unipool_dist.config.fields import allowed, fields_of, mapping_values
from unipool_dist.config.sections import Config

_MAX_FAULTS = 19
_CLOSE = 0.75
"""Similarity from which a name counts as a typing error: ``num_layer`` is one of ``num_layers``, and
``learning_rate`` none of ``min_lr``."""
_SYNONYMS = {
    "learning_rate": "optimizer.lr",
    "max_lr": "optimizer.lr",
    "peak_lr": "optimizer.lr",
    "min_learning_rate": "optimizer.min_lr",
    "lr_min": "optimizer.min_lr",
    "final_lr": "optimizer.min_lr",
    "lr_scheduler": "optimizer.decay",
    "lr_scheduler_type": "optimizer.decay",
    "lr_schedule": "optimizer.decay",
    "scheduler": "optimizer.decay",
    "warmup": "optimizer.warmup_steps",
    "warmup_iters": "optimizer.warmup_steps",
    "lr_warmup_steps": "optimizer.warmup_steps",
    "wd": "optimizer.weight_decay",
    "eps": "optimizer.epsilon",
    "adam_beta1": "optimizer.beta1",
    "adam_beta2": "optimizer.beta2",
    "grad_clip": "optimizer.clip_grad",
    "gradient_clip": "optimizer.clip_grad",
    "gradient_clipping": "optimizer.clip_grad",
    "max_grad_norm": "optimizer.clip_grad",
    "zero_config": "optimizer.deepspeed",
    "batch_size": "train.global_batch_size",
    "train_batch_size": "train.global_batch_size",
    "micro_batch": "train.micro_batch_size",
    "per_device_train_batch_size": "train.micro_batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_size",
    "max_steps": "train.steps",
    "num_steps": "train.steps",
    "train_iters": "train.steps",
    "iterations": "train.steps",
    "precision": "train.dtype",
    "torch_dtype": "train.dtype",
    "params_dtype": "train.dtype",
    "random_seed": "train.seed",
    "eval_steps": "train.eval_interval",
    "d_model": "model.hidden_size",
    "hidden_dim": "model.hidden_size",
    "n_embd": "model.hidden_size",
    "dim": "model.hidden_size",
    "n_layer": "model.num_layers",
    "n_layers": "model.num_layers",
    "depth": "model.num_layers",
    "layers": "model.num_layers",
    "num_hidden_layers": "model.num_layers",
    "num_heads": "model.num_attention_heads",
    "n_head": "model.num_attention_heads",
    "n_heads": "model.num_attention_heads",
    "num_kv_heads": "model.num_query_groups",
    "n_kv_heads": "model.num_query_groups",
    "num_key_value_heads": "model.num_query_groups",
    "intermediate_size": "model.ffn_hidden_size",
    "moe_ffn_hidden_size": "model.ffn_hidden_size",
    "d_ff": "model.ffn_hidden_size",
    "ffn_dim": "model.ffn_hidden_size",
    "seq_len": "model.sequence_length",
    "seq_length": "model.sequence_length",
    "max_seq_len": "model.sequence_length",
    "block_size": "model.sequence_length",
    "context_length": "model.sequence_length",
    "max_position_embeddings": "model.sequence_length",
    "rope_theta": "model.rotary_base",
    "rope_base": "model.rotary_base",
    "rms_norm_eps": "model.norm_epsilon",
    "norm_eps": "model.norm_epsilon",
    "layernorm_epsilon": "model.norm_epsilon",
    "initializer_range": "model.init_std",
    "init_method_std": "model.init_std",
    "n_experts": "pool.num_experts",
    "experts": "pool.num_experts",
    "num_moe_experts": "pool.num_experts",
    "num_local_experts": "pool.num_experts",
    "moe_router_topk": "pool.top_k",
    "topk": "pool.top_k",
    "num_experts_per_tok": "pool.top_k",
    "ep": "pool.parallel_size",
    "ep_size": "pool.parallel_size",
    "expert_parallel": "pool.parallel_size",
    "expert_parallel_size": "pool.parallel_size",
    "expert_model_parallel_size": "pool.parallel_size",
    "aux_loss_coeff": "pool.balance.alpha",
    "aux_loss_coef": "pool.balance.alpha",
    "moe_aux_loss_coeff": "pool.balance.alpha",
    "router_aux_loss_coef": "pool.balance.alpha",
    "pipeline_parallel": "parallel.pp",
    "pipeline_parallel_size": "parallel.pp",
    "pipeline_model_parallel_size": "parallel.pp",
    "tensor_parallel": "parallel.tp",
    "tensor_parallel_size": "parallel.tp",
    "tensor_model_parallel_size": "parallel.tp",
    "data_parallel": "parallel.dp",
    "data_parallel_size": "parallel.dp",
    "gradient_checkpointing": "parallel.recompute",
    "activation_checkpointing": "parallel.recompute",
    "timeout": "parallel.timeout_s",
    "data_path": "data.path",
    "dataset": "data.path",
    "data_weights": "data.weights",
    "log_interval": "log.interval",
    "logging_steps": "log.interval",
    "save_interval": "checkpoint.interval",
    "save_steps": "checkpoint.interval",
    "checkpoint_interval": "checkpoint.interval",
    "save_total_limit": "checkpoint.keep_last",
    "keep": "checkpoint.keep_last",
    "async_save": "checkpoint.asynchronous",
    "output_dir": "run.dir",
    "out_dir": "run.dir",
    "save_dir": "run.dir",
    "run_dir": "run.dir",
    "time_limit": "run.time_limit_s",
    "watchdog": "run.watchdog_s",
}
"""What other programs call a field, by the last part of the name."""


def describe_faults(error: ValidationError, source: str) -> str:
    """Describe all faults that ``error`` found in the configuration ``source``; of very many, the first ones."""
    fields = dict(fields_of(Config))
    lines: dict[str, str] = {}
    found = error.errors(include_url=False, include_context=False)
    for item in found[:_MAX_FAULTS]:
        name, fault = _fault(item, fields)
        if name not in lines or item["type"] == "value_error":  # which says more than the union's other branches
            lines[name] = short(name, 100) + fault
    more = [f"and {len(found) - _MAX_FAULTS:,} more"] if len(found) > _MAX_FAULTS else []
    return f"{printable(source)} is not a valid configuration:\n{listed([*lines.values(), *more])}"


def shown(value: Any) -> str:
    """Return ``value`` as YAML on one line, cut where it is long."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
    return short(text, 60)


def _fault(item: ErrorDetails, fields: dict[str, FieldInfo]) -> tuple[str, str]:
    """Return the full name of a field, and its fault."""
    parts = [str(part) for part in item["loc"]]
    name = ".".join(parts)
    if item["type"] == "extra_forbidden":
        return name, f": no such field; {_suggestion(name, list(fields))}"
    if item["type"] == "invalid_key" or parts[-1] == "[key]":
        return name.removesuffix(".[key]"), ": names must be text, in quotes if they look like numbers"
    # The path of a faulty union ends with the branch that failed, once per branch; the field is the longest known
    # prefix. Only in a mapping does a part after it name something of the user's.
    known = max(size for size in range(len(parts) + 1) if size == 0 or ".".join(parts[:size]) in fields)
    field = fields[".".join(parts[:known])]
    values = mapping_values(field.annotation)
    if values is not None and known < len(parts):
        return ".".join(parts[: known + 2]), f"={shown(item['input'])} must be {allowed(values)}"
    of_field = ".".join(parts[:known])
    if item["type"] == "value_error":
        return of_field, f"={shown(item['input'])}: {item['msg'].removeprefix('Value error, ')}"
    return of_field, f"={shown(item['input'])} must be {allowed(field.annotation, field.metadata)}"


def _suggestion(name: str, known: list[str]) -> str:
    close = _meant(name, known)
    return f"did you mean {' or '.join(close)}?" if close else "see docs/configuration.md for the fields"


def _meant(name: str, known: list[str]) -> list[str]:
    """Return the fields that an unknown name may mean, best first in its own section."""
    section, _, own = name.lower().replace("-", "_").rpartition(".")
    elsewhere = [field for field in known if field.rpartition(".")[2] == own]
    if elsewhere:
        return elsewhere
    if own in _SYNONYMS:
        return [_SYNONYMS[own]]
    if len(own) > 64:
        return []

    def likeness(field: str) -> tuple[float, bool]:
        in_section, _, of_field = field.rpartition(".")
        return difflib.SequenceMatcher(None, own, of_field).ratio(), in_section == section

    best = max(known, key=likeness)
    return [best] if likeness(best)[0] >= _CLOSE else []
