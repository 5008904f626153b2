"""Layers that several models share, one family a file."""
