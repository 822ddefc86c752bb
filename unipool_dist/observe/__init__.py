"""Observation of a run: numbers on the console, in metrics.jsonl and TensorBoard; use of experts; figures."""

from unipool_dist.observe.metrics import MetricsWriter

__all__ = ["MetricsWriter"]
