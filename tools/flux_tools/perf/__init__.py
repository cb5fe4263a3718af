"""`scripts/perf`: NVIDIA's load generator on a running server, and what its exports and our metrics say together."""
