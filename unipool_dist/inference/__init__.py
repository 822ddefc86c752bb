"""Using a run's model: opening it on any layout, its validation loss, tasks, and text."""
