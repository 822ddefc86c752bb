"""Runs a lockstep schedule on one stage: its own micro-batches, its experts for everybody, and the tensors between
stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unipool_dist.config.plan import Plan
from unipool_dist.engine.progress import Beat, unheard
from unipool_dist.engine.schedule import HalfTick, Schedule, forward_only
from unipool_dist.model.assembly import PooledModel
from unipool_dist.pool.server import Microbatches
from unipool_dist.topology.groups import ParallelGroups
from unipool_dist.topology.megatron import P2PCommunicator


@dataclass(frozen=True)
class StageBatch:
    """One micro-batch as a stage needs it: ``tokens`` on the first stage, ``labels`` and ``loss_mask`` on the last;
    [b, s]."""

    tokens: Tensor | None
    labels: Tensor | None
    loss_mask: Tensor | None


Use = Callable[[int, Tensor], None]
"""``use(microbatch, output)``: what becomes of the last stage's output of a micro-batch."""
Begin = Callable[[int], None]
"""``begin(microbatch)``: this stage is about to run it."""


def _no_matter(microbatch: int) -> None:
    """A :data:`Begin` for those who need not know."""


@dataclass
class _InFlight:
    """What backward needs of a micro-batch whose forward has run."""

    inputs: Tensor | None  # the previous stage's output; None on the first stage
    roots: list[Tensor]  # what backward starts from


class Pipeline:
    """One rank's executor of schedules.

    Collectives, in every half-tick, on every rank alike: one exchange per MoE layer of the stage that has most, over
    the pool group; the tensor-parallel collectives of the stage's own layers; in training forward halves those of
    :meth:`Balance.end_forward_half`; then tensors to and from the neighbouring stages.
    """

    def __init__(self, plan: Plan, groups: ParallelGroups, model: PooledModel, beat: Beat = unheard) -> None:
        self._groups, self._model, self._beat = groups, model, beat
        self._num_layers = len(model.layer_range)
        self._shape = (
            plan.model.sequence_length // plan.parallel.tp,
            plan.train.micro_batch_size,
            plan.model.hidden_size,
        )
        n = groups.grid.stages_per_group
        self._my_stages = slice(groups.pp_index // n * n, groups.pp_index // n * n + n)
        self._neighbours = P2PCommunicator(groups.pp, model.layers)
        self.most_in_flight = 0

    def train(
        self, schedule: Schedule, batches: Sequence[StageBatch], *, num_loss_tokens: int
    ) -> tuple[Tensor, Tensor]:
        """Run forward and backward of all ``batches``, adding to the gradients.

        The loss of a micro-batch is its summed token loss over ``num_loss_tokens``, the tokens of the whole step, so
        the gradient is exact however tokens are spread.

        Returns:
            This rank's share of the step's loss (0 except on the last stage) and of its auxiliary loss; fp32 scalars.
        """
        loss, aux = torch.zeros(2, device=self._groups.device).unbind()
        inputs: dict[int, Tensor] = {}
        output_grads: dict[int, Tensor] = {}
        in_flight: dict[int, _InFlight] = {}
        self._model.stage.client.training = True
        for half in schedule:
            microbatch = self._begin(half, keep=True)
            if half.kind == "forward":
                output = None
                if microbatch is not None:
                    output, micro_loss, micro_aux = self._forward(
                        batches[microbatch], inputs.pop(microbatch, None), num_loss_tokens, in_flight, microbatch
                    )
                    loss, aux = loss + micro_loss, aux + micro_aux
                self._model.exchange.serve_rest_forward(0 if microbatch is None else self._num_layers)
                self._model.balance.end_forward_half()
                self._pass_forward(half, output, inputs, self._shape)
            else:
                self._model.exchange.serve_rest_backward(0 if microbatch is None else self._num_layers)
                grad = None
                if microbatch is not None:
                    grad = self._backward(in_flight.pop(microbatch), output_grads.pop(microbatch, None))
                self._model.exchange.end_backward_half()
                self._pass_backward(half, grad, output_grads)
        assert not inputs and not output_grads and not in_flight and not self._model.exchange.num_entries
        return loss, aux

    @torch.no_grad()
    def forward(self, batches: Sequence[StageBatch], use: Use, begin: Begin = _no_matter) -> None:
        """Run ``batches`` forward only, in order. Neither gradients nor balance statistics change.

        Args:
            batches: every one with ``tokens`` on every stage, of one shape [b, s], whatever the configuration's are;
                s is a multiple of tp and at most ``model.sequence_length``.
            use: called on the last stage with token losses [b, s], or where a batch has no ``labels``, with logits
                [s, b, v / tp] (:meth:`unipool_dist.model.stage.Stage.forward`).
            begin: called on every stage before it runs a micro-batch.
        """
        inputs: dict[int, Tensor] = {}
        self._model.stage.client.training = False
        for half in forward_only(self._groups.grid.pp, len(batches)):
            microbatch = self._begin(half, keep=False)
            output = None
            if microbatch is not None:
                begin(microbatch)
                output, _ = self._run_stage(batches[microbatch], inputs.pop(microbatch, None))
                if self._groups.is_last_stage:
                    use(microbatch, output)
            self._model.exchange.serve_rest_forward(0 if microbatch is None else self._num_layers)
            self._pass_forward(half, output, inputs, self._shape_between_stages(batches[0]))

    def _begin(self, half: HalfTick, *, keep: bool) -> int | None:
        stages: Microbatches = half.microbatches[self._my_stages]
        microbatch = half.microbatches[self._groups.pp_index]
        what = "experts for other stages" if microbatch is None else f"micro-batch {microbatch}"
        self._beat(f"{half.kind} of {what}{'' if keep else ' (forward only)'}")
        self._model.exchange.begin_half(stages, keep=keep)
        return microbatch

    def _run_stage(self, batch: StageBatch, inputs: Tensor | None) -> tuple[Tensor, Tensor | None]:
        source = batch.tokens if self._groups.is_first_stage else inputs
        assert source is not None
        return self._model.stage(source, batch.labels if self._groups.is_last_stage else None)

    def _forward(
        self,
        batch: StageBatch,
        inputs: Tensor | None,
        num_loss_tokens: int,
        in_flight: dict[int, _InFlight],
        microbatch: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        output, aux = self._run_stage(batch, inputs)
        loss = output.new_zeros((), dtype=torch.float32)
        root = output
        if self._groups.is_last_stage:
            assert batch.loss_mask is not None
            loss = root = (output * batch.loss_mask).sum() / num_loss_tokens
        in_flight[microbatch] = _InFlight(inputs, [root] if aux is None else [root, aux])
        self.most_in_flight = max(self.most_in_flight, len(in_flight))
        return output, loss.detach(), loss.new_zeros(()) if aux is None else aux.detach()

    def _backward(self, item: _InFlight, output_grad: Tensor | None) -> Tensor | None:
        grads = [output_grad, None][: len(item.roots)]  # the last stage's root and the auxiliary loss are scalars
        torch.autograd.backward(item.roots, grads)
        return None if item.inputs is None else item.inputs.grad

    def _shape_between_stages(self, batch: StageBatch) -> tuple[int, int, int]:
        assert batch.tokens is not None
        rows, length = batch.tokens.shape
        return length // self._groups.grid.tp, rows, self._shape[2]

    def _pass_forward(
        self, half: HalfTick, output: Tensor | None, inputs: dict[int, Tensor], shape: tuple[int, int, int]
    ) -> None:
        """Send this half's output to the next stage while taking the previous stage's."""
        stage = self._groups.pp_index
        incoming = half.microbatches[stage - 1] if stage > 0 else None
        outgoing = None if self._groups.is_last_stage or output is None else output.detach().contiguous()
        if outgoing is None and incoming is None:
            return
        self._beat("passing outputs between stages")
        received = self._neighbours.send_forward_recv_forward(outgoing, incoming is not None, shape)
        if incoming is not None:
            inputs[incoming] = received

    def _pass_backward(self, half: HalfTick, grad: Tensor | None, output_grads: dict[int, Tensor]) -> None:
        """Send this half's input gradient to the previous stage while taking the next stage's."""
        stage = self._groups.pp_index
        incoming = None if self._groups.is_last_stage else half.microbatches[stage + 1]
        outgoing = None if grad is None else grad.contiguous()
        if outgoing is None and incoming is None:
            return
        self._beat("passing gradients between stages")
        received = self._neighbours.send_backward_recv_backward(outgoing, incoming is not None, self._shape)
        if incoming is not None:
            output_grads[incoming] = received.detach()
