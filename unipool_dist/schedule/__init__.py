"""Who computes what when: work, ticks and the edges between stages, as data; pure, no torch."""
