"""What one process does with checkpoints without a run: looking at them, checking, cutting anew, export and import."""
