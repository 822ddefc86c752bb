"""Handling of interruptions: stop in time with the state saved, and never run twice in one directory."""
