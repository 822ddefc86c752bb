"""Running a model: schedule, pipeline, optimizer, training step, evaluation, and the loop around them."""
