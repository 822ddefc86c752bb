"""What everything else stands on: reading files that nobody vouches for, names, and text that is safe to show.

Nothing here imports torch or another part of the package but :mod:`unipool_dist.errors`.
"""
