"""Probes of a trained model: how much its routing matters, and how its layers share the experts."""
