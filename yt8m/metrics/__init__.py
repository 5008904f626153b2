"""Exact metrics of the YouTube-8M competitions, streaming and independent of batch size and order."""
