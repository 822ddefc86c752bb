"""Runs as SLURM jobs: submission, the batch script's reaction when tasks end, and status.

Nothing here imports torch: the batch script has to react in time, and `status` to answer at once.
"""
