"""The cost of a configuration before anything is built: parameters, FLOPs per token, bytes on every rank.

Nothing here imports torch; the model that is built has the same numbers (``tests/planning``).
"""
