"""The part of the model that one pipeline stage runs: embedding, layers, output; names are those of the whole model."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

import torch
from torch import Tensor, nn

from unipool_dist.comm.megatron import (
    ColumnParallelLinear,
    VocabParallelEmbedding,
    vocab_parallel_cross_entropy,
)
from unipool_dist.model.attention import Scope
from unipool_dist.model.block import Block, StagePlace
from unipool_dist.model.cache import KeyValueCache
from unipool_dist.model.documents import Documents
from unipool_dist.model.normalization import RMSNorm
from unipool_dist.model.rotary import RotaryTable
from unipool_dist.pool.turn import Turn


class Stage(nn.Module):
    """Some layers of the model, with the embedding on the first stage and norm, output layer and loss on the last.

    With ``tied`` the output layer is the embedding; the last stage has a copy of it
    (:mod:`unipool_dist.model.tied`).

    Router parameters stay in fp32 whatever ``train.dtype`` is. Parameters that tensor parallelism does not split are
    replicated over it and, since each rank sees other tokens, need their gradients summed over it.
    """

    def __init__(self, place: StagePlace, block: type[Block] = Block, *, tied: bool = False) -> None:
        super().__init__()
        plan, groups, megatron = place.plan, place.groups, place.megatron
        model = plan.model
        self._is_first, self._tied, self._tp = groups.is_first_stage, tied, groups.grid.tp
        self.rotary = RotaryTable(
            model.hidden_size // model.num_attention_heads, model.sequence_length, model.rotary_base
        )
        if groups.is_first_stage or (tied and groups.is_last_stage):
            self.embedding = VocabParallelEmbedding(
                model.vocab_size,
                model.hidden_size,
                init_method=nn.init.zeros_,
                reduce_scatter_embeddings=plan.parallel.tp > 1,
                config=megatron,
                tp_group=groups.tp,
            )
        self.layers = nn.ModuleDict(
            {str(layer): block(place, layer, slot) for slot, layer in enumerate(place.layer_range)}
        )
        if groups.is_last_stage:
            self.final_norm = RMSNorm(model.hidden_size, eps=model.norm_epsilon, dtype=megatron.params_dtype)
            self.output = ColumnParallelLinear(
                model.hidden_size,
                model.vocab_size,
                config=megatron,
                init_method=nn.init.zeros_,
                bias=False,
                gather_output=False,
                skip_weight_param_allocation=tied,
                tp_group=groups.tp,
            )

    def forward(
        self,
        inputs: Tensor,
        labels: Tensor | None,
        turn: Turn,
        documents: Documents | None = None,
        cache: KeyValueCache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Run this stage on one micro-batch.

        Args:
            inputs: token ids [b, s] on the first stage, else the previous stage's output [s / tp, b, h].
            labels: [b, s] on the last stage, or ``None`` for its logits; ``None`` on other stages.
            turn: what the stages of the pool group run in this lane.
            documents: where attention and positions begin again; ``None``: with every row.
            cache: of this stage and these rows; the inputs follow what it holds, each row one document. Without
                gradients.

        Returns:
            On the last stage token losses [b, s] in fp32 (nats), or logits [s, b, v / tp] in fp32, this rank's part
            of the vocabulary; on others the output [s / tp, b, h]. And this stage's share of the auxiliary loss,
            ``None`` in evaluation.

        Collectives: per layer, in order, those of the attention and one exchange with the pool; embedding, output
        layer and loss communicate over the tensor-parallel group.
        """
        x = self._embed(inputs) if self._is_first else inputs
        length = len(x) * self._tp
        scopes: Iterable[Scope]
        if cache is None:
            scopes = repeat(Scope.of(self.rotary, documents, x, length), len(self.layers))
        else:
            scopes = cache.scopes(self.rotary, x, length)
        aux_losses = []
        for block, scope in zip(self.layers.values(), scopes, strict=True):
            x, aux = block(x, scope, turn)
            if aux is not None:
                aux_losses.append(aux)
        aux_loss = torch.stack(aux_losses).sum() if aux_losses else None
        if not hasattr(self, "output"):
            return x, aux_loss
        logits, _ = self.output(self.final_norm(x), weight=self.embedding.weight if self._tied else None)
        if labels is None:
            return logits.float(), aux_loss
        losses: Tensor = vocab_parallel_cross_entropy(logits.float(), labels.transpose(0, 1).contiguous())
        return losses.transpose(0, 1), aux_loss

    def _embed(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self.embedding(tokens)
        if self.embedding.reduce_scatter_embeddings:
            return embedded  # Megatron has already made it [s / tp, b, h]
        return embedded.transpose(0, 1).contiguous()
