"""Work of a single process on checkpoints, without a run: list, verify, reshard, export and import."""
