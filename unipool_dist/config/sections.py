"""The sections of a run's configuration, each field with its unit, range and default.

A field is checked on its own here; whether fields fit each other and the number of processes is decided in
:mod:`unipool_dist.config.resolve`. Unknown keys are errors.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    """Base of all sections: immutable, strict about keys and types (``"8"`` is not a number)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelSection(Section):
    """The dense part: a LLaMA-style decoder whose FFNs are served by the pool."""

    num_layers: Count = 8
    hidden_size: Count = 128
    ffn_hidden_size: Count | None = Field(None, description="hidden width of one expert; null: 4 x hidden_size")
    num_attention_heads: Count = 4
    num_query_groups: Count | None = Field(None, description="key/value heads; null: num_attention_heads")
    sequence_length: Count = Field(256, description="tokens")
    vocab_size: Count | None = Field(None, description="null: the tokenizer's, padded")
    vocab_divisor: Count = Field(128, description="the vocabulary is padded to a multiple of this")
    rotary_base: Positive = 10_000.0
    norm_epsilon: Positive = 1e-5
    init_std: Positive = Field(0.01, description="output projections use init_std / sqrt(2 num_layers)")


class BalanceSection(Section):
    """The auxiliary loss that balances the use of experts."""

    loss: Literal["pool", "layer", "none"] = "pool"
    alpha: NonNegative = 1e-2
    window: Literal["step", "microbatch"] = Field("step", description="what the pool loss counts assignments over")
    scores: Literal["raw", "normalized"] = Field("normalized", description="scores entering the loss")


class PoolSection(Section):
    """The experts, their routers, and how many ranks own one copy of them."""

    num_experts: Count = Field(64, description="M, experts in one pool")
    top_k: Count = 1
    layers_per_group: Count | None = Field(None, description="G, layers that share one pool; null: all; 1: vanilla MoE")
    parallel_size: Count | None = Field(None, description="q, ranks that own one copy; null: as many as is legal")
    stages_per_group: Count | None = Field(None, description="pipeline stages that share one copy; null: all")
    router: Literal["norm", "softmax"] = "norm"
    router_init_std: Positive | None = Field(None, description="null: model.init_std")
    balance: BalanceSection = BalanceSection()


class ParallelSection(Section):
    """Degrees of parallelism; ``pp * dp * tp`` is the number of processes."""

    pp: Count = 1
    tp: Count = 1
    dp: Count | Literal["auto"] = Field("auto", description="auto: what is left of the processes after pp and tp")
    schedule: Literal["lockstep_1f1b", "lockstep_gpipe"] = "lockstep_1f1b"
    recompute: bool = Field(False, description="recompute the dense segments in backward instead of keeping activations")
    timeout_s: Positive = Field(600.0, description="seconds after which a stuck collective ends the run")


class DataSection(Section):
    """Where the prepared corpus is and how its domains are mixed."""

    path: str = Field("data/default", description="directory written by `unipool-dist data prepare`")
    weights: dict[str, Positive] | None = Field(None, description="sampling weight per domain; null: by tokens")
    verify: Literal["size", "hash"] = Field("size", description="how files are checked against the manifest")


class OptimizerSection(Section):
    """The optimizer, its schedule, and the DeepSpeed configuration that holds its states."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: Positive = 1e-3
    min_lr: NonNegative = 1e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 10
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: NonNegative = 0.01
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    epsilon: Positive = 1e-8
    momentum: Fraction = Field(0.0, description="sgd only")
    clip_grad: NonNegative = Field(1.0, description="largest global gradient norm; 0: no clipping")
    deepspeed: str | None = Field(None, description="DeepSpeed JSON file; null: ZeRO stage 1, default buckets")


class TrainSection(Section):
    """How long, how much at a time, and in which precision."""

    steps: Count = 100
    global_batch_size: Count = Field(16, description="sequences per step, all ranks")
    micro_batch_size: Count = Field(4, description="sequences per micro-batch and data-parallel rank")
    seed: Annotated[int, Field(ge=0)] = 1234
    dtype: Literal["fp32", "bf16"] = "fp32"
    eval_interval: Annotated[int, Field(ge=0)] = Field(0, description="steps between evaluations; 0: only at the end")
    eval_sequences: Annotated[int, Field(ge=0)] = Field(32, description="per domain and evaluation; 0: none")


class LogSection(Section):
    """What is written down, and how often."""

    interval: Count = Field(1, description="steps between console lines and metrics.jsonl objects")
    tensorboard: bool = True


class RunSection(Section):
    """Where a run keeps its files."""

    dir: str = "runs/default"


class Config(Section):
    """A whole configuration. Sections left out take their defaults."""

    model: ModelSection = ModelSection()
    pool: PoolSection = PoolSection()
    parallel: ParallelSection = ParallelSection()
    data: DataSection = DataSection()
    optimizer: OptimizerSection = OptimizerSection()
    train: TrainSection = TrainSection()
    log: LogSection = LogSection()
    run: RunSection = RunSection()
