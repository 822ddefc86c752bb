"""Runs a schedule on one stage: its own work, its experts for everybody, and the tensors between stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from unipool_dist.comm.groups import ParallelGroups
from unipool_dist.config.plan import Plan
from unipool_dist.engine.callback import SILENT, Callback
from unipool_dist.engine.links import StageLinks, Tensors
from unipool_dist.errors import ConfigError
from unipool_dist.model.assembly import PooledModel
from unipool_dist.model.cache import KeyValueCache
from unipool_dist.model.documents import Documents, within_documents
from unipool_dist.pool.turn import Turn
from unipool_dist.schedule.check import CheckedSchedule, check
from unipool_dist.schedule.lockstep import forward_only
from unipool_dist.schedule.work import Lane, Tick, Work, Works


@dataclass(frozen=True)
class StageBatch:
    """A stage's micro-batch: ``tokens`` on the first stage, ``labels`` and ``loss_mask`` on the last; [b, s].

    With ``data.reset_at_documents`` every stage needs the tokens.
    """

    tokens: Tensor | None
    labels: Tensor | None
    loss_mask: Tensor | None

    def within_documents(self, end: int | None) -> StageBatch:
        """Return the batch without loss on the tokens that follow ``end``, which begin another document."""
        if end is None or self.loss_mask is None:
            return self
        assert self.tokens is not None
        return replace(self, loss_mask=within_documents(self.loss_mask, self.tokens, end))


Use = Callable[[int, Tensor], None]
"""``use(microbatch, output)``: takes the last stage's output of a micro-batch."""
Begin = Callable[[int], None]
"""``begin(microbatch)``: this stage is about to run it."""


@dataclass
class _Kept:
    """What backward needs of work whose forward has run."""

    inputs: Tensor | None  # the previous chunk's output; None on the first
    roots: list[Tensor]  # what backward starts from


@dataclass
class _Run:
    """One run of a schedule on this stage."""

    batches: Sequence[StageBatch]
    shape: tuple[int, ...]  # of the tensors between stages
    made: Tensors = field(default_factory=dict)
    arrived: Tensors = field(default_factory=dict)
    kept: dict[Work, _Kept] = field(default_factory=dict)


class Pipeline:
    """One rank's executor of schedules.

    Collectives, in every lane of a tick, on every rank alike: one exchange per MoE layer of the stage that has most,
    over the pool group; the tensor-parallel collectives of the stage's own layers; in training, after a forward lane,
    those of :meth:`Balance.end_forward_lane`. Then, over the pipeline group, the edges of the tick.
    """

    def __init__(self, plan: Plan, groups: ParallelGroups, model: PooledModel, callback: Callback = SILENT) -> None:
        if plan.data.reset_at_documents and plan.document_end is None:
            raise ConfigError(
                "data.reset_at_documents=true needs to know which token ends a document: give that of the tokenizer to "
                "Plan.ending_documents_with, or to build_model as document_end"
            )
        self._groups, self._model, self._doing = groups, model, callback.doing
        self._document_end = plan.document_end
        self._stage, self._num_layers = groups.pp_index, len(model.layer_range)
        self._hidden_size = plan.model.hidden_size
        n = groups.grid.stages_per_group
        self._my_stages = slice(self._stage // n * n, self._stage // n * n + n)
        self._links = StageLinks(groups.pp, model.dtype, groups.device)

    def train(
        self, checked: CheckedSchedule, batches: Sequence[StageBatch], plan: Plan, *, num_loss_tokens: int
    ) -> tuple[Tensor, Tensor]:
        """Run forward and backward of all ``batches``, adding to the gradients.

        The loss of a micro-batch is its summed token loss over ``num_loss_tokens``, the tokens of the whole step, so
        the gradient is exact however tokens are spread. Batches are within documents already
        (:meth:`StageBatch.within_documents`).

        Args:
            plan: of the stage of the run that the batches are of; those of all ranks and micro-batches together have
                ``tokens_per_step`` tokens, those without loss included.

        Returns:
            This rank's share of the step's loss (0 except on the last stage) and of its auxiliary loss; fp32 scalars.
        """
        loss, aux = torch.zeros(2, device=self._groups.device).unbind()
        run = _Run(batches, self._shape_between_stages(plan.train.micro_batch_size, plan.model.sequence_length))
        ticks = checked.schedule.ticks
        backward_tick = {work: number for number, work in checked.schedule.runs(self._stage, "backward")}
        for tick in ticks:
            if tick.forward:
                work = self._begin(tick, "forward")
                later = None if work is None else self._of_my_group(ticks[backward_tick[work]].backward)
                turn = Turn(self._of_my_group(tick.forward), True, later, plan.tokens_per_step)
                if work is not None:
                    micro_loss, micro_aux = self._forward(work, run, turn, num_loss_tokens)
                    loss, aux = loss + micro_loss, aux + micro_aux
                self._model.exchange.serve_forward(turn, 0 if work is None else self._num_layers)
                self._model.balance.end_forward_lane()
            if tick.backward:
                work = self._begin(tick, "backward")
                works = self._of_my_group(tick.backward)
                self._model.exchange.serve_backward(works, 0 if work is None else self._num_layers)
                if work is not None:
                    self._backward(work, run)
                self._model.exchange.end_backward_lane()
            self._pass_on(tick, run)
        assert not run.made and not run.arrived and not run.kept and not self._model.exchange.num_entries
        return loss, aux

    @torch.no_grad()
    def forward(
        self,
        batches: Sequence[StageBatch],
        use: Use,
        begin: Begin | None = None,
        caches: Sequence[KeyValueCache] | None = None,
    ) -> None:
        """Run ``batches`` forward only, in order. Neither gradients nor balance statistics change.

        Args:
            batches: every one with ``tokens`` on every stage, of one shape [b, s], whatever the configuration's are;
                s is a multiple of tp and at most the longest ``model.sequence_length`` of the run.
            use: called on the last stage with token losses [b, s], or where a batch has no ``labels``, with logits
                [s, b, v / tp] (:meth:`unipool_dist.model.stage.Stage.forward`).
            begin: called on every stage before it runs a micro-batch.
            caches: of this stage, one for each batch, whose tokens follow what it holds: keys and values of all tokens
                run are written there, and the caller says how many count (:meth:`KeyValueCache.hold`). Each row is
                one document.
        """
        run = _Run(batches, self._shape_of(batches[0]) if batches else ())
        for tick in check(forward_only(self._groups.grid.pp, len(batches))).schedule.ticks:
            work = self._begin(tick, "forward", note=" (forward only)")
            turn = Turn(self._of_my_group(tick.forward), training=False)
            if work is not None:
                if begin is not None:
                    begin(work.microbatch)
                inputs = run.arrived.pop(("forward", work), None)
                cache = None if caches is None else caches[work.microbatch]
                output, _ = self._run_stage(batches[work.microbatch], inputs, turn, cache)
                if self._groups.is_last_stage:
                    use(work.microbatch, output)
                else:
                    run.made["forward", work] = output
            self._model.exchange.serve_forward(turn, 0 if work is None else self._num_layers)
            self._pass_on(tick, run)

    def _of_my_group(self, works: Works) -> Works:
        return works[self._my_stages]

    def _begin(self, tick: Tick, lane: Lane, note: str = "") -> Work | None:
        work = tick.works(lane)[self._stage]
        what = "experts for other stages" if work is None else f"micro-batch {work.microbatch}"
        self._doing(f"{lane} of {what}{note}")
        return work

    def _run_stage(
        self, batch: StageBatch, inputs: Tensor | None, turn: Turn, cache: KeyValueCache | None = None
    ) -> tuple[Tensor, Tensor | None]:
        source = batch.tokens if self._groups.is_first_stage else inputs
        assert source is not None
        documents = None
        if self._document_end is not None and cache is None:
            assert batch.tokens is not None
            documents = Documents.of(batch.tokens, self._document_end)
        labels = batch.labels if self._groups.is_last_stage else None
        return self._model.stage(source, labels, turn, documents, cache)

    def _forward(self, work: Work, run: _Run, turn: Turn, num_loss_tokens: int) -> tuple[Tensor, Tensor]:
        """Run ``work``; return what it adds to this rank's loss and auxiliary loss."""
        batch, inputs = run.batches[work.microbatch], run.arrived.pop(("forward", work), None)
        if inputs is not None:
            inputs.requires_grad_()
        output, aux = self._run_stage(batch, inputs, turn)
        loss = output.new_zeros((), dtype=torch.float32)
        root = output
        if self._groups.is_last_stage:
            assert batch.loss_mask is not None
            loss = root = (output * batch.loss_mask).sum() / num_loss_tokens
        else:
            run.made["forward", work] = output.detach()
        run.kept[work] = _Kept(inputs, [root] if aux is None else [root, aux])
        return loss.detach(), loss.new_zeros(()) if aux is None else aux.detach()

    def _backward(self, work: Work, run: _Run) -> None:
        kept = run.kept.pop(work)
        output_grad = run.arrived.pop(("backward", work), None)
        grads = [output_grad, None][: len(kept.roots)]  # the last stage's root and the auxiliary loss are scalars
        torch.autograd.backward(kept.roots, grads)
        if kept.inputs is not None:
            assert kept.inputs.grad is not None
            run.made["backward", work] = kept.inputs.grad

    def _shape_of(self, batch: StageBatch) -> tuple[int, int, int]:
        assert batch.tokens is not None
        rows, length = batch.tokens.shape
        return self._shape_between_stages(rows, length)

    def _shape_between_stages(self, rows: int, length: int) -> tuple[int, int, int]:
        return length // self._groups.grid.tp, rows, self._hidden_size

    def _pass_on(self, tick: Tick, run: _Run) -> None:
        """Send what this stage has made for others, and take what they have made for it."""
        if self._links.concern(tick.edges):
            self._doing("passing tensors between stages")
            self._links.move(tick.edges, run.made, run.arrived, run.shape)
