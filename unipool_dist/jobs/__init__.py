"""Runs as SLURM jobs: submitting them, what the batch script does when their tasks end, and what has become of them.

Nothing here imports torch: the batch script has to react in time, and `status` to answer at once.
"""
