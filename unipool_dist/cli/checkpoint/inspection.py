"""``unipool-dist checkpoint inspect``: the records and tensors of one checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unipool_dist.base.console import say
from unipool_dist.base.printable import aligned
from unipool_dist.base.units import size
from unipool_dist.checkpoint.offline.locate import Located
from unipool_dist.cli.checkpoint.common import find, json_option, layout, print_json, run_argument, step_option
from unipool_dist.config.run_stages import RunStages
from unipool_dist.config.staging import config_at
from unipool_dist.model.inventory import is_expert, split_key

if TYPE_CHECKING:
    from unipool_dist.checkpoint.offline.tensor_reader import TensorInfo


@click.command()
@run_argument
@step_option
@click.option("--tensors", is_flag=True, help="List every tensor.")
@json_option
def inspect(run: Path, step: int | None, tensors: bool, as_json: bool) -> None:
    """Show what is in a checkpoint of RUN: progress, data, versions, configuration, tensors.

    Reads its small files and the index of its tensors; `verify` reads everything.
    """
    from unipool_dist.checkpoint.offline.tensor_reader import TensorReader

    located = find(run, step)
    infos = list(TensorReader(located.folder).tensors.values())
    kinds = _by_kind(infos)
    if as_json:
        document = _document(located, kinds)
        if tensors:
            document["tensors"] = [_record(info) for info in infos]
        print_json(document)
        return
    say("\n".join(_text(located)))
    rows = [("tensors", "count", "elements", "size", "of that, experts")]
    rows += [
        (kind, f"{k['count']:,}", f"{k['elements']:,}", size(k["bytes"]), size(k["expert_bytes"]))
        for kind, k in kinds.items()
    ]
    say("\n" + "\n".join(aligned(rows, right=range(1, 5))))
    if tensors:
        table = [("name", "shape", "type", "bytes", "chunks")]
        table += [
            (info.name, "x".join(map(str, info.shape)), info.dtype, f"{info.num_bytes:,}", str(info.num_chunks))
            for info in infos
        ]
        say("\n" + "\n".join(aligned(table, right=(3, 4))))


def _by_kind(infos: Iterable[TensorInfo]) -> dict[str, dict[str, int]]:
    """Count tensors and bytes by kind: ``master``, a kind of optimizer state, ``balance`` or ``random``."""
    kinds: dict[str, dict[str, int]] = {}
    for info in infos:
        kind, name = split_key(info.name)
        sums = kinds.setdefault(kind, {"count": 0, "elements": 0, "bytes": 0, "expert_bytes": 0})
        sums["count"] += 1
        sums["elements"] += info.numel
        sums["bytes"] += info.num_bytes
        sums["expert_bytes"] += info.num_bytes if is_expert(name) else 0
    return kinds


def _tokens(located: Located) -> int:
    return RunStages.of(located.config).tokens(located.progress.step)


def _text(located: Located) -> list[str]:
    progress, data = located.progress, located.progress.data
    config = config_at(located.config, progress.step)
    model, pool = config.model, config.pool
    experts = f"none, a dense FFN in each layer, hidden {model.ffn_hidden_size}"
    if pool.router != "none":
        experts = (
            f"{pool.num_experts} in each pool of {pool.layers_per_group} layers, top-{pool.top_k}, {pool.router} "
            f"router, hidden {model.ffn_hidden_size}"
        )
    states = "with optimizer states" if progress.optimizer_states else "without optimizer states"
    rows = [
        ("checkpoint", f"{located.folder}, whole by its manifest and the sizes of its files"),
        ("progress", f"step {progress.step}, {progress.consumed_samples:,} samples, {_tokens(located):,} tokens"),
        ("schedule", f"{progress.schedule_steps} steps done, {states}"),
        ("written", f"{progress.written_at}, {layout(progress.layout)}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in progress.versions.items())),
        ("tokenizer", f"sha256 {data.tokenizer_hash}"),
        ("corpus", f"content {data.content_hash}" if data.content_hash else "any with this tokenizer"),
        ("data order", f"drawn for {' + '.join(f'{samples:,}' for samples in data.segments) or '0'} samples"),
        (
            "model",
            f"{model.num_layers} layers, hidden {model.hidden_size}, {model.num_attention_heads} heads, vocabulary "
            f"{model.vocab_size}, sequences of {model.sequence_length}",
        ),
        ("experts", experts),
        (
            "training",
            f"{config.optimizer.name}, lr {config.optimizer.lr:g}, {config.train.steps} steps of "
            f"{config.train.global_batch_size} sequences, {config.train.dtype}",
        ),
    ]
    return aligned(rows)


def _document(located: Located, kinds: dict[str, dict[str, int]]) -> dict[str, Any]:
    return {
        "path": located.folder,
        "progress": {**located.progress.model_dump(mode="json", exclude={"random"}), "tokens": _tokens(located)},
        "config": located.config.model_dump(mode="json"),
        "bytes": located.manifest.num_bytes,
        "kinds": kinds,
    }


def _record(info: TensorInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "shape": info.shape,
        "dtype": info.dtype,
        "bytes": info.num_bytes,
        "chunks": info.num_chunks,
    }
