"""Runs that are interrupted: stopping in time with the state saved, and never two runs in one directory."""
