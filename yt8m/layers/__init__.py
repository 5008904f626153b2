"""Layers that several models share, one file per family."""
