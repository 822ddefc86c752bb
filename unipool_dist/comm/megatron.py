"""Megatron-core for training, imported only here: its CPU adapter, its process groups, its layer settings."""

from __future__ import annotations

import torch

from unipool_dist.comm.megatron_import import light_import
from unipool_dist.config.plan import Outline

with light_import():
    from megatron.core import ModelParallelConfig, parallel_state
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
    from megatron.core.tensor_parallel import (
        ColumnParallelLinear,
        RowParallelLinear,
        VocabParallelEmbedding,
        vocab_parallel_cross_entropy,
    )

__all__ = [
    "ColumnParallelLinear",
    "ModelParallelConfig",
    "OptimizerParamScheduler",
    "RowParallelLinear",
    "VocabParallelEmbedding",
    "create_megatron_groups",
    "layer_config",
    "let_megatron_run_without_cuda",
    "parallel_state",
    "vocab_parallel_cross_entropy",
]


def let_megatron_run_without_cuda() -> None:
    """Let Megatron-core allocate on the CPU where there is no CUDA device.

    Its sequence parallelism and rotary embedding ask ``torch.cuda.current_device()``
    where to allocate; everything else in the parts used here is device-agnostic. Does nothing on a machine with CUDA.
    """
    if not torch.cuda.is_available():
        torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment,return-value]


def create_megatron_groups(plan: Outline) -> None:
    """Create Megatron's process groups for tensor, data and pipeline parallelism.

    Collectives: creates groups over the whole world; every rank must call it.
    """
    parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=plan.parallel.tp,
        pipeline_model_parallel_size=plan.parallel.pp,
        distributed_timeout_minutes=plan.parallel.timeout_s / 60,
        create_gloo_process_groups=False,
    )


def layer_config(plan: Outline, dtype: torch.dtype) -> ModelParallelConfig:
    """Return the settings shared by all of Megatron's layers.

    Weights are neither allocated on a GPU nor initialised by Megatron: initial values must not depend on the layout
    (:mod:`unipool_dist.model.initialization`).
    """
    result = ModelParallelConfig(
        tensor_model_parallel_size=plan.parallel.tp,
        pipeline_model_parallel_size=plan.parallel.pp,
        sequence_parallel=plan.parallel.tp > 1,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        use_cpu_initialization=True,
        perform_initialization=False,
        gradient_accumulation_fusion=False,
    )
    return result
