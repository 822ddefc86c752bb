"""What a configuration costs before anything is built: parameters, FLOPs per token, bytes on every rank.

Nothing here imports torch; what is really built has the same numbers (``tests/sizing``).
"""
