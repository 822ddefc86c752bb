"""Ranks and process groups: a pure rank grid, the groups made from it, and what the launcher's environment says."""
