"""Rank pooling, public as `rankpool_ops.py`: preparation of frames, the solver, the implicit gradient."""
