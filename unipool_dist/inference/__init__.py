"""Use of a trained model: open it on any layout, measure its validation loss, run tasks, generate text."""
