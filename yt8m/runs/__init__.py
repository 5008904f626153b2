"""The directory of a run: what lies in it, its checkpoints, and what becomes of it."""
