"""Floating-point operations per token, of matrix products: a product of [m, k] and [k, n] counts as ``2 m k n``.

Counted as by Narayanan et al. (arXiv 2104.04473, appendix), with two differences: causal attention counts for what it
needs, and of the experts only those that a token chooses. Norms, softmax, rotation, activation and the choice of
experts are left out. A sequence counts as one document, with ``data.reset_at_documents`` too.

Per token, with H hidden, a heads of width d (``a d = H``), g key/value heads, s sequence length, F the hidden width
of an expert, V vocabulary::

    attention weights    2 L (H (a + 2 g) d + H^2)
    attention scores     4 L H (s + 1) / 2      query times key and probability times value; token t sees t keys
    routers              2 L H M                nothing in a dense model
    experts              2 L k 3 H F
    output layer         2 H V                  the embedding is looked up

Backward computes two products for each of forward, so training is three times that: model FLOPs, which recomputation
(``parallel.recompute``) does not change.
"""

from __future__ import annotations

from unipool_dist.config.plan import Plan
from unipool_dist.model.families import inventory
from unipool_dist.planning.parameters import count_parameters

BACKWARD_OVER_FORWARD = 2


def forward_flops(plan: Plan) -> dict[str, int]:
    """Return the FLOPs of one token's forward pass, mean over the positions of a sequence, by part of the model."""
    model, active = plan.model, count_parameters(plan).active
    # A router's vectors, such as the scale of the norm router, multiply no matrix.
    matrices = [spec for spec in inventory(plan).layer if spec.part == "routers" and len(spec.shape) > 1]
    router_weights = model.num_layers * sum(spec.numel for spec in matrices)
    return {
        "attention_weights": 2 * active["attention"],
        "attention_scores": 2 * model.num_layers * model.hidden_size * (model.sequence_length + 1),
        "routers": 2 * router_weights,
        "experts": 2 * active["experts"],
        "output": 2 * model.hidden_size * model.vocab_size,
    }


def training_flops(plan: Plan) -> int:
    """Return the FLOPs of one token's forward and backward pass."""
    return (1 + BACKWARD_OVER_FORWARD) * sum(forward_flops(plan).values())
