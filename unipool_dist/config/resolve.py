"""What a configuration means for a given number of processes: fills every `null` and `auto`, refuses what cannot be.

Pure arithmetic; runs before any process group is made, on every rank alike.
"""

from __future__ import annotations

from unipool_dist.config.sections import MAX_PROCESSES, Config, PoolSection
from unipool_dist.errors import ConfigError, TopologyError

MAX_EXPERTS = 100_000
"""In all pools together; each is a tensor or two of its own in checkpoints and exports."""


def resolve_config(config: Config, world_size: int) -> Config:
    """Return ``config`` with every size filled in for ``world_size`` processes.

    ``model.vocab_size`` stays ``None`` if it is to come from the tokenizer.

    Raises:
        ConfigError: sizes of the model, pool or batch contradict each other.
        TopologyError: the layout is impossible for ``world_size`` or for the sizes.
    """
    if world_size > MAX_PROCESSES:
        raise TopologyError(f"{world_size:,} processes are more than {MAX_PROCESSES:,}; lower parallel.pp, tp or dp")
    is_dense = config.pool.router == "none"
    if is_dense:
        _check_dense(config.pool)
    model = config.model
    model = model.model_copy(
        update={
            "ffn_hidden_size": model.ffn_hidden_size or 4 * model.hidden_size,
            "num_query_groups": model.num_query_groups or model.num_attention_heads,
        }
    )
    dp = _data_parallel_size(config, world_size)
    parallel = config.parallel.model_copy(update={"dp": dp})
    pool = config.pool
    pool = pool.model_copy(
        update={
            "layers_per_group": pool.layers_per_group or (1 if is_dense else model.num_layers),
            "stages_per_group": pool.stages_per_group or (1 if is_dense else parallel.pp),
            "router_init_std": pool.router_init_std or model.init_std,
        }
    )
    if pool.parallel_size is None:
        pool = pool.model_copy(update={"parallel_size": _largest_parallel_size(pool, parallel.pp, dp * parallel.tp)})
    resolved = config.model_copy(update={"model": model, "pool": pool, "parallel": parallel})
    _check_model(resolved)
    _check_pool(resolved)
    _check_batch(resolved, dp)
    _check_optimizer(resolved)
    return resolved


def _check_dense(pool: PoolSection) -> None:
    """Without a router a layer's FFN is its only expert, and every rank that runs the layer holds it."""
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


def _data_parallel_size(config: Config, world_size: int) -> int:
    pp, tp, dp = config.parallel.pp, config.parallel.tp, config.parallel.dp
    if dp == "auto":
        if world_size % (pp * tp):
            raise TopologyError(
                f"{world_size} processes cannot be split over parallel.pp={pp} x parallel.tp={tp}; "
                f"start a multiple of {pp * tp} processes or lower pp or tp"
            )
        return world_size // (pp * tp)
    if pp * tp * dp != world_size:
        raise TopologyError(
            f"parallel.pp={pp} x parallel.tp={tp} x parallel.dp={dp} needs {pp * tp * dp} processes but {world_size} "
            f"were started; start {pp * tp * dp} processes or set parallel.dp=auto"
        )
    return dp


def _largest_parallel_size(pool: PoolSection, pp: int, ranks_per_stage: int) -> int:
    n = pool.stages_per_group
    assert n is not None
    sizes = [n * block for block in range(1, ranks_per_stage + 1) if ranks_per_stage % block == 0]
    legal = [q for q in sizes if pool.num_experts % q == 0]
    if not legal:
        raise TopologyError(
            f"pool.num_experts={pool.num_experts} cannot be split over pool.stages_per_group={n} pipeline stages; "
            f"choose a number of experts that {n} divides or a pool.stages_per_group that divides both it and "
            f"parallel.pp={pp}"
        )
    return max(legal)


def _check_model(config: Config) -> None:
    model, parallel = config.model, config.parallel
    heads, groups, tp = model.num_attention_heads, model.num_query_groups, parallel.tp
    assert groups is not None
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


def _check_pool(config: Config) -> None:
    pool, pp = config.pool, config.parallel.pp
    assert isinstance(config.parallel.dp, int)
    per_stage = config.parallel.dp * config.parallel.tp
    q, n, group = pool.parallel_size, pool.stages_per_group, pool.layers_per_group
    assert q is not None and n is not None and group is not None
    if pool.top_k > pool.num_experts:
        raise ConfigError(f"pool.top_k={pool.top_k} is more than pool.num_experts={pool.num_experts}; lower top_k")
    if pool.router == "norm" and pool.num_experts < 2:
        raise ConfigError(
            f"pool.num_experts={pool.num_experts}: NormRouter needs at least 2 experts; raise it, or set "
            f"pool.router=none for a dense model"
        )
    if config.model.num_layers % group:
        raise ConfigError(
            f"model.num_layers={config.model.num_layers} is not divisible by pool.layers_per_group={group}; "
            f"choose a divisor of {config.model.num_layers}"
        )
    check_num_experts(config)
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


def check_num_experts(config: Config) -> None:
    """Check that the pools of a resolved configuration have together as many experts as can be dealt with.

    Raises:
        ConfigError: they have more.
    """
    assert config.pool.layers_per_group is not None
    pools = config.model.num_layers // config.pool.layers_per_group
    if pools * config.pool.num_experts > MAX_EXPERTS:
        raise ConfigError(
            f"pool.num_experts={config.pool.num_experts} in each of {pools:,} pools are more than {MAX_EXPERTS:,} "
            f"experts; lower it, or raise pool.layers_per_group"
        )


def _check_batch(config: Config, dp: int) -> None:
    train = config.train
    if train.global_batch_size % (train.micro_batch_size * dp):
        raise ConfigError(
            f"train.global_batch_size={train.global_batch_size} is not a multiple of train.micro_batch_size="
            f"{train.micro_batch_size} x parallel.dp={dp}; the nearest that is: "
            f"{max(1, round(train.global_batch_size / (train.micro_batch_size * dp))) * train.micro_batch_size * dp}"
        )


def _check_optimizer(config: Config) -> None:
    optimizer, steps = config.optimizer, config.train.steps
    if optimizer.min_lr > optimizer.lr:
        raise ConfigError(f"optimizer.min_lr={optimizer.min_lr} is above optimizer.lr={optimizer.lr}; lower min_lr")
    if optimizer.warmup_steps >= steps and optimizer.decay != "constant":
        raise ConfigError(
            f"optimizer.warmup_steps={optimizer.warmup_steps} leaves no step of train.steps={steps} to decay over; "
            f"lower it or set optimizer.decay=constant"
        )
