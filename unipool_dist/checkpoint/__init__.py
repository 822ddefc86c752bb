"""Checkpoints that know no layout: written whole or not at all, verified before they are read, loaded on any layout."""
