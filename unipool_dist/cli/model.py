"""``unipool-dist model``: the cost of a configuration, by arithmetic alone."""

from __future__ import annotations

from math import gcd
from pathlib import Path
from typing import Any

import click

from unipool_dist.base.console import put, say
from unipool_dist.base.printable import aligned
from unipool_dist.base.units import named_ranges, size
from unipool_dist.cli.checkpoint.common import json_option, print_json
from unipool_dist.cli.option_types import PROCESSES
from unipool_dist.config import Config, Outline, Plan, config_text, load_config, outline
from unipool_dist.config.describe import describe_layout, describe_model, describe_owners
from unipool_dist.errors import ConfigError, DataError
from unipool_dist.planning.flops import forward_flops, training_flops
from unipool_dist.planning.memory import RankKind, rank_kinds
from unipool_dist.planning.parameters import ParameterCounts, count_parameters


@click.command()
@click.argument("config_path", metavar="CONFIG", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[SECTION.FIELD=VALUE ...]")
@click.option(
    "--nproc",
    type=PROCESSES,
    help="Processes.  [default: as many as CONFIG asks for; with parallel.dp=auto, as few as can own the pool]",
)
@click.option("--resolved", is_flag=True, help="Print the whole configuration instead, with nothing left open.")
@json_option
def model(config_path: Path, overrides: tuple[str, ...], nproc: int | None, resolved: bool, as_json: bool) -> None:
    """Show parameters, FLOPs per token and bytes per rank of CONFIG; nothing is built.

    SECTION.FIELD=VALUE sets a field of CONFIG: text as it is typed, numbers in decimal, lists and mappings as YAML.

    FLOPs are those of matrix products: two for each weight and token, only for the chosen experts, and causal
    attention at (sequence + 1) / 2 keys for each query; training is three times forward.

    \b
    unipool-dist model configs/paper/182m-unipool.yaml
    unipool-dist model configs/paper/830m-unipool.yaml parallel.dp=16 --json
    """
    config = load_config(config_path, overrides)
    plan = _with_vocabulary(outline(config, nproc or _processes(config)))
    if resolved:
        put(config_text(plan.config))
        return
    counts, kinds = count_parameters(plan), rank_kinds(plan)
    if as_json:
        print_json(_document(plan, counts, kinds))
        return
    say(f"{describe_model(plan)}\n{describe_layout(plan)}; {describe_owners(plan)}\n")
    say("\n".join(_parameter_table(counts)))
    forward, training = sum(forward_flops(plan).values()), training_flops(plan)
    say(f"\nFLOPs per token: forward {forward:.4g}, training {training:.4g}\n")
    if len(plan.stages.each) > 1:
        say("\n".join([*_stage_table(plan), ""]))
    say("\n".join(_memory_table(kinds)))
    say(f"Masters and moments by ZeRO stage {plan.zero.stage}; activations and the update's buckets come on top.")


def _processes(config: Config) -> int:
    """Return the number of processes asked for; for ``parallel.dp: auto``, the fewest that can own the whole pool."""
    parallel, pool = config.parallel, config.pool
    dp = parallel.dp
    if dp == "auto":
        block = max(1, (pool.parallel_size or 1) // (pool.stages_per_group or parallel.pp))
        dp = block // gcd(block, parallel.tp)
    return parallel.pp * parallel.tp * dp


def _with_vocabulary(known: Outline) -> Plan:
    """Return the plan, with its own vocabulary size or that of its corpus, which needs torch to open."""
    if known.model.vocab_size is not None:
        return known.with_vocabulary()
    from unipool_dist.data.corpus import Corpus

    try:
        return known.with_vocabulary(Corpus.open(known.data.path).vocab_size)
    except DataError as error:
        raise ConfigError(
            f"model.vocab_size=null means that of the corpus's tokenizer, but {error}, or set model.vocab_size"
        ) from None


def _document(plan: Plan, counts: ParameterCounts, kinds: list[RankKind]) -> dict[str, Any]:
    parallel, pool = plan.parallel, plan.pool
    return {
        "stored_parameters": sum(counts.stored.values()),
        "active_parameters": sum(counts.active.values()),
        "expert_parameters": counts.stored["experts"],
        "active_expert_parameters": counts.active["experts"],
        "router_parameters": counts.stored["routers"],
        "attention_parameters": counts.stored["attention"],
        "embedding_parameters": counts.stored["embedding"],
        "norm_parameters": counts.stored["norms"],
        "forward_flops_per_token": sum(forward_flops(plan).values()),
        "forward_flops_per_token_by_part": forward_flops(plan),
        "training_flops_per_token": training_flops(plan),
        "layout": {
            "pp": parallel.pp,
            "dp": parallel.dp,
            "tp": parallel.tp,
            "pool_parallel_size": pool.parallel_size,
            "stages_per_group": pool.stages_per_group,
            "zero_stage": plan.zero.stage,
        },
        "stages": [
            {
                "from_step": stage.first_step,
                "global_batch_size": stage.train.global_batch_size,
                "micro_batch_size": stage.train.micro_batch_size,
                "sequence_length": stage.sequence_length,
                "tokens_per_step": stage.tokens_per_step,
                "training_flops_per_token": training_flops(plan.at(stage.first_step)),
                "lr": stage.optimizer.lr,
            }
            for stage in plan.stages.each
        ],
        "largest_rank_bytes": max(kind.each.total_bytes for kind in kinds),
        "ranks": [
            {
                "stages": kind.stages,
                "num_ranks": kind.num_ranks,
                **vars(kind.each),
                "total_bytes": kind.each.total_bytes,
            }
            for kind in kinds
        ],
    }


def _parameter_table(counts: ParameterCounts) -> list[str]:
    rows = [("parameters", "stored", "active per token")]
    rows += [(part, f"{number:,}", f"{counts.active[part]:,}") for part, number in counts.stored.items()]
    rows.append(("all", f"{sum(counts.stored.values()):,}", f"{sum(counts.active.values()):,}"))
    return aligned(rows, right=(1, 2))


def _stage_table(plan: Plan) -> list[str]:
    """Return a line for each stage of the run; the largest has the most tokens in a micro-batch, then the longest."""
    heads = ("from step", "sequences", "micro-batch", "tokens each", "tokens per step", "FLOPs per token", "lr", "")
    sizes = [(s.train.micro_batch_size * s.sequence_length, s.sequence_length) for s in plan.stages.each]
    rows: list[tuple[str, ...]] = [heads]
    for stage, of_stage in zip(plan.stages.each, sizes, strict=True):
        rows.append(
            (
                f"{stage.first_step:,}",
                f"{stage.train.global_batch_size:,}",
                f"{stage.train.micro_batch_size:,}",
                f"{stage.sequence_length:,}",
                f"{stage.tokens_per_step:,}",
                f"{training_flops(plan.at(stage.first_step)):.4g}",
                f"{stage.optimizer.lr:g}",
                "largest" if of_stage == max(sizes) > min(sizes) else "",
            )
        )
    return aligned(rows, right=range(7))


def _memory_table(kinds: list[RankKind]) -> list[str]:
    heads = ("on each rank of", "ranks", "parameters", "weights", "gradients", "masters", "moments", "all", "")
    rows: list[tuple[str, ...]] = [heads]
    largest = max(kind.each.total_bytes for kind in kinds)
    for kind in kinds:
        each = kind.each
        numbers = (each.weight_bytes, each.gradient_bytes, each.master_bytes, each.moment_bytes, each.total_bytes)
        rows.append(
            (
                named_ranges("stage", kind.stages),
                str(kind.num_ranks),
                f"{each.dense_parameters + each.expert_parameters:,}",
                *map(size, numbers),
                "largest" if len(kinds) > 1 and each.total_bytes == largest else "",
            )
        )
    return aligned(rows, right=range(1, 8))
