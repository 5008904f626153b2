"""Rank pooling behind its public door `rankpool_ops.py`: frames before pooling, solver, implicit gradient."""
