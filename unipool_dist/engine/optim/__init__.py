"""A rank's optimizer: its contract (``sharded``), DeepSpeed's ZeRO behind it, and all of them together (``pooled``)."""
