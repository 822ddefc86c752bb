"""The optimizer: its contract (``sharded``), DeepSpeed's ZeRO behind it, learning rates, and one rank's optimizers
together (``pooled``)."""
