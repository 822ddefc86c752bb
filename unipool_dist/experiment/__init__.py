"""Experiments: variants of a configuration, each trained with several seeds, on this machine or as a job array.

Nothing here imports torch: planning and listing have to answer at once.
"""
