"""What cannot be: sizes that contradict each other or the number of processes, each refused with a way out.

Every error names fields with their values and one change that helps.
"""

from __future__ import annotations

from unipool_dist.config.plan import ModelSizes, ParallelPlan, PoolPlan
from unipool_dist.config.sections import OptimizerSection, PoolSection, TrainSection
from unipool_dist.errors import ConfigError, TopologyError
from unipool_dist.layout.pool_map import PoolMap
from unipool_dist.layout.rank_grid import RankGrid, Span

MAX_EXPERTS = 100_000
"""In all pools together; each is a tensor or two of its own in checkpoints and exports."""


def check_outline(
    model: ModelSizes, pool: PoolPlan, parallel: ParallelPlan, train: TrainSection, optimizer: OptimizerSection
) -> None:
    """Check that sizes, layout, batch and schedule fit each other.

    Raises:
        ConfigError, TopologyError: naming the fields.
    """
    _check_model(model, parallel)
    _check_pool(model, pool, parallel)
    _check_batch(train, parallel.dp)
    _check_optimizer(optimizer, train.steps)


def check_pools(grid: RankGrid, pools: PoolMap) -> None:
    """Check that the pools held by one stage group are shared with the same other stage groups.

    Raises:
        TopologyError: they are not, so that its experts would have different replicas.
    """
    spans = grid.pool_spans(pools)
    span_of: dict[int, Span] = {}
    for span in dict.fromkeys(spans):
        if any(span_of.setdefault(stage_group, span) != span for stage_group in range(span[0], span[1] + 1)):
            raise TopologyError(
                f"with pool.stages_per_group={grid.stages_per_group} and parallel.pp={grid.pp}, pools of "
                f"pool.layers_per_group={pools.layers_per_pool} layers begin or end inside a stage group and reach "
                f"into the next; set pool.stages_per_group={grid.pp}, or choose layers_per_group so that pools and "
                f"stage groups align"
            )


def check_dense(pool: PoolSection) -> None:
    """Check a pool without a router: a layer's FFN is its only expert, and every rank that runs the layer holds it."""
    needed = {
        "num_experts": pool.num_experts == 1,
        "top_k": pool.top_k == 1,
        "layers_per_group": pool.layers_per_group in (None, 1),
        "parallel_size": pool.parallel_size in (None, 1),
        "stages_per_group": pool.stages_per_group in (None, 1),
    }
    settings = [f"pool.{name}=1" for name, kept in needed.items() if not kept]
    if pool.balance.loss != "none":
        settings.append("pool.balance.loss=none")
    if pool.balance.bias_rate:
        settings.append("pool.balance.bias_rate=0.0")
    if settings:
        raise ConfigError(
            f"pool.router=none makes a dense model, with one FFN in each layer and nothing to balance; set "
            f"{' '.join(settings)}"
        )


def _check_model(model: ModelSizes, parallel: ParallelPlan) -> None:
    heads, groups, tp = model.num_attention_heads, model.num_query_groups, parallel.tp
    if model.hidden_size % heads:
        raise ConfigError(
            f"model.hidden_size={model.hidden_size} is not divisible by model.num_attention_heads={heads}; "
            f"choose a hidden size that is a multiple of {heads}"
        )
    if (model.hidden_size // heads) % 2:
        raise ConfigError(
            f"model.hidden_size={model.hidden_size} over model.num_attention_heads={heads} gives heads of odd width "
            f"{model.hidden_size // heads}, which rotary embeddings cannot use; choose fewer heads"
        )
    if heads % groups:
        raise ConfigError(
            f"model.num_attention_heads={heads} is not divisible by model.num_query_groups={groups}; "
            f"choose a divisor of {heads}"
        )
    if groups % tp:
        raise TopologyError(
            f"model.num_query_groups={groups} cannot be split over parallel.tp={tp}; lower tp or raise num_query_groups"
        )
    if model.sequence_length % tp:
        raise TopologyError(
            f"model.sequence_length={model.sequence_length} cannot be split over parallel.tp={tp} (sequence "
            f"parallelism); choose a multiple of {tp}"
        )
    if model.vocab_divisor % tp:
        raise TopologyError(
            f"model.vocab_divisor={model.vocab_divisor} must be a multiple of parallel.tp={tp}, so that the padded "
            f"vocabulary splits evenly; set it to {model.vocab_divisor * tp}"
        )
    if model.vocab_size is not None and model.vocab_size % tp:
        raise TopologyError(
            f"model.vocab_size={model.vocab_size} cannot be split over parallel.tp={tp}; choose a multiple of {tp}, or "
            f"null, which pads the tokenizer's"
        )
    if parallel.pp > model.num_layers:
        raise TopologyError(
            f"parallel.pp={parallel.pp} is more than model.num_layers={model.num_layers}: a stage would have no layer; "
            f"lower pp"
        )


def _check_pool(model: ModelSizes, pool: PoolPlan, parallel: ParallelPlan) -> None:
    pp, per_stage = parallel.pp, parallel.dp * parallel.tp
    q, n, group = pool.parallel_size, pool.stages_per_group, pool.layers_per_group
    if pool.top_k > pool.num_experts:
        raise ConfigError(f"pool.top_k={pool.top_k} is more than pool.num_experts={pool.num_experts}; lower top_k")
    if pool.router == "norm" and pool.num_experts < 2:
        raise ConfigError(
            f"pool.num_experts={pool.num_experts}: NormRouter needs at least 2 experts; raise it, or set "
            f"pool.router=none for a dense model"
        )
    if model.num_layers % group:
        raise ConfigError(
            f"model.num_layers={model.num_layers} is not divisible by pool.layers_per_group={group}; "
            f"choose a divisor of {model.num_layers}"
        )
    pools = model.num_layers // group
    if pools * pool.num_experts > MAX_EXPERTS:
        raise ConfigError(
            f"pool.num_experts={pool.num_experts} in each of {pools:,} pools are more than {MAX_EXPERTS:,} experts; "
            f"lower it, or raise pool.layers_per_group"
        )
    if pp % n:
        raise TopologyError(f"parallel.pp={pp} is not divisible by pool.stages_per_group={n}; choose a divisor of {pp}")
    if q % n or per_stage % (q // n):
        legal = ", ".join(str(n * b) for b in range(1, per_stage + 1) if per_stage % b == 0)
        raise TopologyError(
            f"pool.parallel_size={q} cannot be laid over pool.stages_per_group={n} stages of {per_stage} ranks each "
            f"(parallel.dp x parallel.tp); choose one of {legal}"
        )
    if pool.num_experts % q:
        raise TopologyError(
            f"pool.num_experts={pool.num_experts} cannot be split over pool.parallel_size={q} ranks; "
            f"choose a multiple of {q} experts or a smaller parallel_size"
        )


def _check_batch(train: TrainSection, dp: int) -> None:
    if train.global_batch_size % (train.micro_batch_size * dp):
        raise ConfigError(
            f"train.global_batch_size={train.global_batch_size} is not a multiple of train.micro_batch_size="
            f"{train.micro_batch_size} x parallel.dp={dp}; the nearest that is: "
            f"{max(1, round(train.global_batch_size / (train.micro_batch_size * dp))) * train.micro_batch_size * dp}"
        )


def _check_optimizer(optimizer: OptimizerSection, steps: int) -> None:
    if optimizer.min_lr > optimizer.lr:
        raise ConfigError(f"optimizer.min_lr={optimizer.min_lr} is above optimizer.lr={optimizer.lr}; lower min_lr")
    if optimizer.warmup_steps >= steps and optimizer.decay != "constant":
        raise ConfigError(
            f"optimizer.warmup_steps={optimizer.warmup_steps} leaves no step of train.steps={steps} to decay over; "
            f"lower it or set optimizer.decay=constant"
        )
    if optimizer.decay == "wsd" and optimizer.warmup_steps + optimizer.wsd_decay_steps > steps:
        raise ConfigError(
            f"optimizer.warmup_steps={optimizer.warmup_steps} and optimizer.wsd_decay_steps="
            f"{optimizer.wsd_decay_steps} are together more than train.steps={steps}; lower one of them"
        )
