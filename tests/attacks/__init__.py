"""Attacks on what reads and writes: tests play a few rounds, benchmarks many."""
