"""``README.md`` of an exported model: what it is, what it was trained on, how to load it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from unipool_dist.base.printable import printable
from unipool_dist.checkpoint.offline.export_format import ExportRecord
from unipool_dist.config.plan import Plan
from unipool_dist.model.families import inventory

MODEL_CARD = "README.md"


def model_card(plan: Plan, record: ExportRecord, class_name: str, losses: Mapping[str, float]) -> str:
    """Return the text of the card.

    Args:
        losses: validation loss of each domain, in nats per token.
    """
    return "\n".join(_lines(plan, record, class_name, losses)) + "\n"


def _lines(plan: Plan, record: ExportRecord, class_name: str, losses: Mapping[str, float]) -> Iterator[str]:
    trusted = ", trust_remote_code=True" if class_name == "unipool" else ""
    yield from ("---", "library_name: transformers", "pipeline_tag: text-generation", f"tags: [{class_name}]", "---")
    yield from ("", "# A model trained with unipool_dist", "")
    yield from (f"{_kind(plan)}, after {record.step:,} steps on {record.tokens:,} tokens.", "")
    yield from ("```python", "from transformers import AutoModelForCausalLM, AutoTokenizer", "")
    yield f'model = AutoModelForCausalLM.from_pretrained("PATH_OF_THIS_FOLDER"{trusted})'
    yield 'tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER", trust_remote_code=True)'
    yield 'print(tokenizer.decode(model.generate(**tokenizer("Once", return_tensors="pt"), max_new_tokens=32)[0]))'
    yield from ("```", "", "| | |", "|---|---|")
    yield from (f"| {name} | {value} |" for name, value in _figures(plan, record))
    if losses:
        yield from ("", "| validation text | loss, nats per token |", "|---|---|")
        yield from (f"| {printable(name)} | {loss:.4f} |" for name, loss in losses.items())
    yield from ("", "`config.yaml` has every setting of the run, `export.json` the hashes of the weights.")


def _kind(plan: Plan) -> str:
    """Describe the model in a sentence's beginning."""
    pool = plan.pool
    if pool.router == "none":
        return "A dense decoder"
    kind = f"experts chosen by a {pool.router} router, {pool.top_k} for each token"
    if pool.layers_per_group == 1:
        return f"A decoder with {pool.num_experts} {kind} in each layer"
    return (
        f"A UniPool decoder ([arXiv 2605.06665](https://arxiv.org/abs/2605.06665)): every {pool.layers_per_group} of "
        f"its layers share a pool of {pool.num_experts} {kind}"
    )


def _figures(plan: Plan, record: ExportRecord) -> Iterator[tuple[str, str]]:
    model = plan.model
    counts = [(spec, count) for spec, count in inventory(plan).counted() if spec.trained]
    unused = (
        plan.pools.total_experts - model.num_layers * plan.pool.top_k
    )  # negative where experts serve several layers
    expert = sum(spec.numel for spec in inventory(plan).expert)
    yield "parameters", f"{record.num_parameters:,}"
    yield "parameters that compute a token", f"{sum(s.numel * c for s, c in counts) - unused * expert:,}"
    yield "layers", f"{model.num_layers}"
    yield "hidden size", f"{model.hidden_size}"
    yield "width of an expert" if plan.pool.router != "none" else "FFN size", f"{model.ffn_hidden_size}"
    yield "query heads, key/value heads", f"{model.num_attention_heads}, {model.num_query_groups}"
    yield "tokens of a sequence", f"{model.sequence_length:,}"
    yield "vocabulary", f"{model.vocab_size:,}"
    yield "type of the weights", f"{record.dtype}, routers in fp32"
    yield "exported", record.exported_at
    yield "software", ", ".join(f"{name} {version}" for name, version in record.versions.items())
