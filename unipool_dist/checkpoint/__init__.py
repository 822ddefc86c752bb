"""Checkpoints independent of the layout: written whole or not at all, verified before reading, loaded on any layout."""
