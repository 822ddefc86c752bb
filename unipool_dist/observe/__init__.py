"""Observation of a run: numbers on the console, in metrics.jsonl and in trackers; use of experts; figures."""
