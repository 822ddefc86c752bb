"""Foundations of every other package: reading untrusted files, replacing files, names, and text that is safe to show.

Nothing here imports torch or another part of the package but :mod:`unipool_dist.errors`.
"""
