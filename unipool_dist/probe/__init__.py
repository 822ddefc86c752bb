"""What the routing of a trained model is worth, and how its layers share the experts."""
