"""Two real Tritons under load, restarted and killed: what is lost, and when traffic returns.

A replica is `scripts/serve` as its own process, a door is the way that callers take to both, the load is callers who
never stop asking.
"""
