"""Gradients between backward and the optimizer: fp32 accumulators, and sums over tensor parallelism."""

from __future__ import annotations

from collections.abc import Iterable

import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from unipool_dist.model.assembly import PooledModel
from unipool_dist.model.inventory import spec_of
from unipool_dist.pool.main_grad import main_grad, zero_main_grad


class GradientBuffers:
    """The fp32 gradients of one rank's parameters, summed over the micro-batches of a step.

    Every parameter has ``main_grad`` (fp32, its own shape) from :meth:`zero` to the end of the step: exact zeros,
    never ``None``, where nothing flowed. Autograd's ``.grad`` is added into it as soon as it is complete and then
    dropped, so that bf16 runs accumulate in fp32; experts write into ``main_grad`` themselves.
    """

    def __init__(self, model: PooledModel) -> None:
        self._dense = list(model.stage.parameters())
        self._bank = model.bank
        for parameter in self._dense:
            parameter.register_post_accumulate_grad_hook(_move_to_main_grad)

    def zero(self) -> None:
        self._bank.zero_grad_buffers()
        for parameter in self._dense:
            zero_main_grad(parameter)

    def sum_over_tensor_parallel(self, tp: dist.ProcessGroup) -> None:
        """Sum the gradients of parameters that are replicated over tensor parallelism.

        With sequence parallelism each of the ranks has seen other tokens. Collectives: one all-reduce over ``tp``.
        """
        if tp.size() == 1:
            return
        replicated = [main_grad(p) for p in self._dense if spec_of(p).tp_dim is None]
        _all_reduce_together(replicated, tp)


def all_reduce_in_buckets(tensors: Iterable[Tensor], group: dist.ProcessGroup, bucket_numel: int) -> None:
    """Sum ``tensors`` over ``group``, in place, about ``bucket_numel`` elements at a time.

    Collectives: one all-reduce over ``group`` for each bucket, in the order of the tensors.
    """
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > bucket_numel:
            _all_reduce_together(bucket, group)
            bucket = []
        bucket.append(tensor)
    if bucket:
        _all_reduce_together(bucket, group)


def _move_to_main_grad(parameter: Tensor) -> None:
    assert isinstance(parameter, nn.Parameter) and parameter.grad is not None
    main_grad(parameter).add_(parameter.grad)
    parameter.grad = None


def _all_reduce_together(tensors: Iterable[Tensor], group: dist.ProcessGroup) -> None:
    tensors = list(tensors)
    flat = _flatten_dense_tensors(tensors)
    dist.all_reduce(flat, group=group)
    for tensor, reduced in zip(tensors, _unflatten_dense_tensors(flat, tensors), strict=True):
        tensor.copy_(reduced)
