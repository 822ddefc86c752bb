"""Hostile inputs of every kind that the program reads, each given to a process of its own: ``python -m tests.fuzz``."""
