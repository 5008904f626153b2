"""Registered models that put attention or second-order statistics around VLAD."""
