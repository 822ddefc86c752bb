"""The sections of a run's configuration, each field with its role, unit, range and default.

A field is checked on its own here; whether fields fit each other and the number of processes is decided in
:mod:`unipool_dist.config.resolution`. Unknown keys are errors.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from unipool_dist.config.changes import StageChange
from unipool_dist.config.fields import Flag, StepRange, UserCode
from unipool_dist.config.roles import ByStages, Eval, Fixed, InferenceToo, Io, Layout, Run, Shape, Split, Start
from unipool_dist.config.values import (
    Count,
    CountOrNone,
    DataOrder,
    Experts,
    ExpertWidth,
    Fraction,
    Layers,
    NonNegative,
    PathText,
    Positive,
    Processes,
    Rank,
    Section,
    Seed,
    TimeLimit,
    Timeout,
    Tokens,
    Weight,
    Width,
)


class ModelSection(Section):
    """The dense part: a decoder whose FFNs are served by the pool."""

    family: Shape[Literal["llama", "sandwich"] | UserCode] = Field(
        "llama",
        description="llama: norms before attention and experts; sandwich: norms before and after, and the output layer "
        "is the embedding; or a family of your own",
    )
    num_layers: Shape[Layers] = Field(8, description="L, transformer layers, each with a MoE FFN served by the pool")
    hidden_size: Shape[Width] = Field(128, description="width of the residual stream")
    ffn_hidden_size: Shape[ExpertWidth | None] = Field(
        None, description="hidden width of one expert; null: 4 x hidden_size"
    )
    num_attention_heads: Shape[Width] = Field(
        4, description="query heads; each is hidden_size / num_attention_heads wide"
    )
    num_query_groups: Shape[Width | None] = Field(None, description="key/value heads; null: num_attention_heads")
    sequence_length: ByStages[Shape[Tokens]] = Field(256, description="tokens per sequence")
    vocab_size: Shape[Tokens | None] = Field(
        None, description="tokens in the vocabulary, padding included; null: the tokenizer's, padded"
    )
    vocab_divisor: Layout[Width] = Field(128, description="the tokenizer's vocabulary is padded to a multiple of this")
    rotary_base: Shape[Positive] = Field(10_000.0, description="theta of the rotary position embedding")
    norm_epsilon: Shape[Positive] = Field(1e-5, description="added to the mean square in RMSNorm")
    init_std: Start[Positive] = Field(
        0.01, description="standard deviation of initial weights; output projections: over sqrt(2 L)"
    )


class BalanceSection(Section):
    """What balances the use of experts: an auxiliary loss, a bias on their choice, or both."""

    loss: Run[Literal["pool", "layer", "none"] | UserCode] = Field(
        "pool", description="pool: all layers of a pool counted together; layer: every layer for itself"
    )
    alpha: Run[NonNegative] = Field(
        1e-2,
        description="weight of the auxiliary loss. pool: of the mean over the layers of a pool; layer: of each layer's "
        "own loss, which are added up, so that one alpha is as many times as strong as there are layers. Both are the "
        "paper's, with 1e-2 for either at 182M",
    )
    window: Run[Literal["step", "microbatch"]] = Field(
        "step", description="the preceding step or micro-batch, whose assignments the pool loss uses"
    )
    scores: Run[Literal["raw", "normalized"]] = Field(
        "normalized", description="router scores entering the loss: as they are, or divided by their sum for each token"
    )
    bias_rate: Run[NonNegative] = Field(
        0.0,
        description="after each step an expert's bias, added to its score when experts are chosen, moves by this "
        "against its load in the pool (arXiv 2408.15664); 0: no bias",
    )


class PoolSection(Section):
    """The experts, their routers, and how many ranks own one copy of them."""

    num_experts: Shape[Experts] = Field(64, description="M, experts in one pool")
    top_k: Shape[Experts] = Field(1, description="K, experts that serve a token in one layer")
    layers_per_group: Shape[Layers | None] = Field(
        None, description="G, layers that share one pool; null: all, 1 with router none; 1: vanilla MoE"
    )
    parallel_size: InferenceToo[Layout[Processes | None]] = Field(
        None, description="q, ranks that own one copy; null: as many as is legal"
    )
    stages_per_group: InferenceToo[Layout[Layers | None]] = Field(
        None, description="pipeline stages that share one copy; null: all, 1 with router none"
    )
    placement: Layout[Literal["contiguous", "usage"] | UserCode] = Field(
        "contiguous",
        description="which rank of a pool group owns which expert; contiguous: neighbours in the order of their ids; "
        "usage: moved during the run to where they are used; module:Class: a PlacementPolicy of your own",
    )
    placement_steps: Layout[list[Count]] = Field(
        [], description="steps after which placement usage moves experts; none: 50, 100, 200, 400, ..."
    )
    router: Shape[Literal["norm", "softmax", "sigmoid", "none"] | UserCode] = Field(
        "norm",
        description="norm: NormRouter of UniPool; softmax: the usual one, softmax before top-k; sigmoid: every expert "
        "for itself; none: dense model, one expert in each layer and nothing to choose; or a router of your own",
    )
    normalize_gates: Shape[Flag] = Field(
        False, description="divide the scores of a token's chosen experts by their sum, as Mixtral does"
    )
    router_init_std: Start[Positive | None] = Field(
        None, description="standard deviation of initial router weights; null: model.init_std"
    )
    balance: BalanceSection = BalanceSection()


class ParallelSection(Section):
    """Degrees of parallelism; ``pp * dp * tp`` is the number of processes."""

    pp: InferenceToo[Layout[Layers]] = Field(1, description="pipeline stages")
    tp: InferenceToo[Layout[Processes]] = Field(
        1, description="tensor-parallel ranks of a stage; sequence parallelism goes with it"
    )
    dp: InferenceToo[Layout[Processes | Literal["auto"]]] = Field(
        "auto", description="data-parallel replicas; auto: what is left of the processes after pp and tp"
    )
    schedule: InferenceToo[Layout[Literal["lockstep_1f1b", "lockstep_gpipe"] | UserCode]] = Field(
        "lockstep_1f1b", description="order of forward and backward passes; 1f1b holds fewer micro-batches in memory"
    )
    recompute: InferenceToo[Layout[Flag]] = Field(
        False, description="recompute dense segments in backward instead of keeping activations"
    )
    timeout_s: InferenceToo[Layout[Timeout]] = Field(
        600.0, description="seconds after which a stuck collective ends the run"
    )


class DataSection(Section):
    """Where the prepared corpus is and how its domains are mixed."""

    path: ByStages[InferenceToo[Io[PathText]]] = Field(
        "data/default", description="directory written by `unipool-dist data prepare`"
    )
    weights: ByStages[Fixed[dict[str, Weight] | None]] = Field(
        None, description="sampling weight per domain; null: by tokens"
    )
    order: Fixed[DataOrder] = Field(
        "indexed",
        description="indexed: an index of all documents and samples is built and kept; computed: none is needed, and a "
        "corpus of any size is opened at once (docs/data.md)",
    )
    verify: Io[Literal["size", "hash"]] = Field("size", description="how files are checked against the manifest")
    reset_at_documents: Run[Flag] = Field(
        False, description="attention, positions and loss do not cross the ends of documents"
    )


class OptimizerSection(Section):
    """The optimizer, its schedule, and the DeepSpeed configuration that holds its states."""

    name: Fixed[Literal["adamw", "sgd"] | UserCode] = Field(
        "adamw", description="update rule; module:Class: a ShardedOptimizer of your own"
    )
    lr: ByStages[Run[Positive]] = Field(1e-3, description="learning rate after warm-up")
    min_lr: ByStages[Run[NonNegative]] = Field(1e-4, description="learning rate at the last step, where it decays")
    router_lr_scale: Run[Positive] = Field(
        1.0, description="learning rate of the routers over that of the other parameters, at every step"
    )
    warmup_steps: Run[CountOrNone] = Field(10, description="steps of linear rise from 0 to lr")
    decay: Run[Literal["cosine", "linear", "constant", "wsd"]] = Field(
        "cosine",
        description="how lr falls to min_lr after the warm-up: cosine or linear until the last step; constant: it does "
        "not; wsd: it stays at lr and falls in the last wsd_decay_steps only (warm-up, stable, decay)",
    )
    wsd_decay_steps: Run[Count] = Field(10, description="wsd only: last steps of the run, over which lr falls")
    wsd_decay: Run[Literal["linear", "cosine", "exponential", "minus_sqrt"]] = Field(
        "linear",
        description="wsd only: how lr falls. With x from 0 to 1 over these steps, of lr - min_lr is left 1 - x, "
        "(1 + cos(pi x)) / 2, 2 / 2^x - 1 or 1 - sqrt(x)",
    )
    weight_decay: Run[NonNegative] = Field(0.01, description="strength of weight decay")
    beta1: Run[Fraction] = Field(0.9, description="adamw only: decay of the mean of gradients")
    beta2: Run[Fraction] = Field(0.95, description="adamw only: decay of the mean of squared gradients")
    epsilon: Run[Positive] = Field(1e-8, description="adamw only: added to the denominator")
    momentum: Run[Fraction] = Field(0.0, description="sgd only")
    clip_grad: Run[NonNegative] = Field(1.0, description="largest global gradient norm; 0: no clipping")
    deepspeed: Layout[PathText | None] = Field(
        None, description="DeepSpeed JSON file; null: ZeRO stage 1, default buckets"
    )


class TrainSection(Section):
    """How long, how much at a time, and in which precision."""

    steps: Run[Count] = Field(100, description="optimizer steps of the whole run")
    global_batch_size: ByStages[Fixed[Count]] = Field(16, description="sequences per step, all ranks")
    micro_batch_size: ByStages[InferenceToo[Split[Count]]] = Field(
        4, description="sequences per micro-batch and data-parallel rank"
    )
    seed: Fixed[Seed] = Field(1234, description="of initial weights and of the order of the data")
    dtype: InferenceToo[Run[Literal["fp32", "bf16"]]] = Field(
        "fp32", description="of weights and activations; optimizer states are fp32"
    )
    eval_interval: Eval[CountOrNone] = Field(0, description="steps between evaluations; 0: only at the end")
    eval_sequences: Eval[CountOrNone] = Field(32, description="sequences per domain and evaluation; 0: no evaluation")


class LogSection(Section):
    """What is written down, and how often."""

    interval: Io[Count] = Field(
        1, description="steps between console lines and metrics.jsonl objects, which have their means and maxima"
    )
    tensorboard: Io[Flag] = Field(True, description="write event files into the run directory")
    sinks: Io[list[Literal["tensorboard", "wandb", "mlflow"] | UserCode]] = Field(
        [], description="where numbers go besides metrics.jsonl and TensorBoard (docs/callbacks.md)"
    )
    online: Io[Flag] = Field(
        False, description="let wandb and mlflow send what they take; false: they write into the run directory alone"
    )
    project: Io[str] = Field("unipool-dist", description="project of wandb, experiment of mlflow")
    callbacks: Io[list[UserCode]] = Field([], description="callbacks of your own (docs/callbacks.md)")
    profile_steps: Io[StepRange | None] = Field(
        None, description="first and last step that torch.profiler traces, as 10-12; null: none"
    )
    profile_ranks: Io[list[Rank]] = Field([0], description="ranks that write a trace each")
    memory_step: Io[CountOrNone] = Field(
        0, description="step after which each rank writes a snapshot of its GPU's memory (CUDA only); 0: none"
    )


class CheckpointSection(Section):
    """When the state of a run is saved, and which checkpoints are kept. It is always saved at the end."""

    interval: Io[CountOrNone] = Field(
        1000, description="steps between checkpoints; 0: only when the run ends or is stopped"
    )
    keep_last: Io[CountOrNone] = Field(2, description="newest checkpoints that are kept; 0: all")
    keep_every: Io[CountOrNone] = Field(
        0, description="checkpoints of steps that this divides are kept for good; 0: none"
    )
    asynchronous: Io[Flag] = Field(True, description="write while training continues, from a copy in host memory")
    verify: InferenceToo[Io[Literal["hash", "size"]]] = Field(
        "hash", description="before loading, files are read whole and compared with the manifest, or only their sizes"
    )


class RunSection(Section):
    """Where a run keeps its files, and how long it may take."""

    dir: Io[PathText] = Field(
        "runs/default", description="directory for metrics, figures, checkpoints and the final configuration"
    )
    time_limit_s: Io[TimeLimit | None] = Field(
        None, description="seconds from the start of the processes before which the run saves and stops; null: none"
    )
    watchdog_s: Io[Timeout | None] = Field(
        None,
        description="seconds without progress of a rank after which all ranks write down where they are and the run "
        "ends, to be resumed; below parallel.timeout_s, or that comes first; null: 3/4 of it",
    )


class Config(Section):
    """A whole configuration. Sections left out take their defaults."""

    model: ModelSection = ModelSection()
    pool: PoolSection = PoolSection()
    parallel: ParallelSection = ParallelSection()
    data: DataSection = DataSection()
    optimizer: OptimizerSection = OptimizerSection()
    train: TrainSection = TrainSection()
    log: LogSection = LogSection()
    checkpoint: CheckpointSection = CheckpointSection()
    run: RunSection = RunSection()
    stages: Run[list[StageChange]] = Field(
        [],
        description="stages after the first, in order: from_step, and by full name the fields that change with it "
        "(docs/stages.md)",
    )
