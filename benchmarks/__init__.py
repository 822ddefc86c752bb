"""What UniPool costs: speed against a dense model, bytes sent against the least possible. ``make bench`` runs it."""
