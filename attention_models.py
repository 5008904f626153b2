"""Registered models in which frames attend to each other, or are pooled by attention alone."""
