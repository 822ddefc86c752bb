"""Watching a run: numbers on the console, in metrics.jsonl and TensorBoard; use of experts; figures."""

from unipool_dist.observe.metrics import MetricsWriter
from unipool_dist.observe.report import write_figures

__all__ = ["MetricsWriter", "write_figures"]
