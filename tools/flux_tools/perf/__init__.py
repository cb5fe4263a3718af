"""`scripts/perf`: runs NVIDIA's perf_analyzer against a server and combines its exports with the server's metrics."""
