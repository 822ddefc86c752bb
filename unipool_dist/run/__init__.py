"""A run: its directory, its beginning, each rank's part of it, and how its processes are started and end."""
