"""From a configuration to a plan: fills every ``null`` and ``auto`` for a number of processes, refuses what cannot be.

Arithmetic, and the one look at the DeepSpeed file; runs before any process group is made, on every rank alike.
"""

from __future__ import annotations

from dataclasses import replace

from unipool_dist.config.checks import check_dense, check_outline, check_pools
from unipool_dist.config.deepspeed import read_deepspeed_config
from unipool_dist.config.plan import ModelSizes, Outline, ParallelPlan, Plan, PoolPlan, RunPlan
from unipool_dist.config.run_stages import RunStages
from unipool_dist.config.sections import Config, ParallelSection, PoolSection
from unipool_dist.config.staging import stage_configs
from unipool_dist.config.values import MAX_PROCESSES
from unipool_dist.errors import TopologyError, UnipoolError
from unipool_dist.layout.pool_map import PoolMap
from unipool_dist.layout.rank_grid import RankGrid

WATCHDOG_SHARE = 0.75
"""Of ``parallel.timeout_s``: the watchdog's patience where ``run.watchdog_s`` is null."""


def resolve(config: Config, world_size: int, tokenizer_size: int | None = None) -> Plan:
    """Return the plan of ``config`` on ``world_size`` processes.

    Args:
        tokenizer_size: tokens that the corpus's tokenizer knows; decides the vocabulary where it is null.

    Raises:
        ConfigError: sizes of the model, pool or batch contradict each other, the vocabulary is not known, or the
            DeepSpeed file cannot be used.
        TopologyError: the layout is impossible for ``world_size`` or for the sizes.
    """
    return outline(config, world_size).with_vocabulary(tokenizer_size)


def resolve_model(config: Config) -> Plan:
    """Return a plan for the model of a configuration that a run wrote, whatever that was trained on: one process.

    Raises:
        ConfigError: sizes contradict each other or are left open.
    """
    pool = config.pool.model_copy(update={"parallel_size": None, "stages_per_group": None})
    train = config.train.model_copy(update={"global_batch_size": config.train.micro_batch_size})
    optimizer = config.optimizer.model_copy(update={"deepspeed": None})
    changes = {"pool": pool, "train": train, "optimizer": optimizer, "parallel": ParallelSection(), "stages": []}
    return resolve(config.model_copy(update=changes), 1)


def outline(config: Config, world_size: int, *, from_step: int = 1) -> Outline:
    """Return ``config`` with every size but the vocabulary filled in for ``world_size`` processes.

    Args:
        from_step: the step that is trained next. Stages that end before it need not fit the layout.

    Raises:
        ConfigError, TopologyError: as :func:`resolve`, naming the stage if the run has several.
    """
    if world_size > MAX_PROCESSES:
        raise TopologyError(f"{world_size:,} processes are more than {MAX_PROCESSES:,}; lower parallel.pp, tp or dp")
    every = stage_configs(config)
    current = [number for number, (first_step, _) in enumerate(every) if first_step <= max(from_step, 1)][-1]
    outlines = [_outline_of_stage(each, first_step, world_size) for first_step, each in every[current:]]
    return replace(outlines[0], config=_filled(config, world_size), stages=RunStages.of(config))


def _outline_of_stage(config: Config, first_step: int, world_size: int) -> Outline:
    """Return the outline of a stage as if it were the whole run; ``config`` is its own."""
    try:
        return _outline(config, world_size)
    except UnipoolError as error:
        if first_step == 1:
            raise
        raise type(error)(f"the stage from step {first_step}: {error}") from None


def _outline(config: Config, world_size: int) -> Outline:
    if config.pool.router == "none":
        check_dense(config.pool)
    filled = _filled(config, world_size)
    model = ModelSizes.model_validate(filled.model.model_dump())
    pool = PoolPlan.model_validate(filled.pool.model_dump())
    parallel = ParallelPlan.model_validate(filled.parallel.model_dump())
    check_outline(model, pool, parallel, config.train, config.optimizer)
    grid = RankGrid(parallel.pp, parallel.dp, parallel.tp, pool.parallel_size, pool.stages_per_group)
    pools = PoolMap(model.num_layers, pool.layers_per_group, pool.num_experts)
    check_pools(grid, pools)
    watchdog_s = config.run.watchdog_s or WATCHDOG_SHARE * parallel.timeout_s
    return Outline(
        config=filled,
        model=model,
        pool=pool,
        parallel=parallel,
        data=config.data,
        optimizer=config.optimizer,
        zero=read_deepspeed_config(config.optimizer.deepspeed),
        train=config.train,
        log=config.log,
        checkpoint=config.checkpoint,
        run=RunPlan.model_validate(config.run.model_dump() | {"watchdog_s": watchdog_s}),
        grid=grid,
        pools=pools,
        stages=RunStages.of(config),
    )


def _filled(config: Config, world_size: int) -> Config:
    """Return ``config`` with its sizes; those of the watchdog stay with the process groups' timeout."""
    is_dense = config.pool.router == "none"
    model, pool, pp = config.model, config.pool, config.parallel.pp
    dp = _data_parallel_size(config, world_size)
    n = pool.stages_per_group or (1 if is_dense else pp)
    of_model = {
        "ffn_hidden_size": model.ffn_hidden_size or 4 * model.hidden_size,
        "num_query_groups": model.num_query_groups or model.num_attention_heads,
    }
    of_pool = {
        "layers_per_group": pool.layers_per_group or (1 if is_dense else model.num_layers),
        "stages_per_group": n,
        "parallel_size": pool.parallel_size or _largest_parallel_size(pool, n, pp, dp * config.parallel.tp),
        "router_init_std": pool.router_init_std or model.init_std,
    }
    return config.model_copy(
        update={
            "model": model.model_copy(update=of_model),
            "pool": pool.model_copy(update=of_pool),
            "parallel": config.parallel.model_copy(update={"dp": dp}),
        }
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


def _largest_parallel_size(pool: PoolSection, n: int, pp: int, ranks_per_stage: int) -> int:
    sizes = [n * block for block in range(1, ranks_per_stage + 1) if ranks_per_stage % block == 0]
    legal = [q for q in sizes if pool.num_experts % q == 0]
    if not legal:
        raise TopologyError(
            f"pool.num_experts={pool.num_experts} cannot be split over pool.stages_per_group={n} pipeline stages; "
            f"choose a number of experts that {n} divides or a pool.stages_per_group that divides both it and "
            f"parallel.pp={pp}"
        )
    return max(legal)
