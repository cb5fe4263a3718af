"""Benchmarks, the demo checkpoint, simulations and releases: programs for a checkout of this repository."""
