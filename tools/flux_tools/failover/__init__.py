"""Restarts and kills one of two Tritons under load, and counts lost requests and the time until traffic returns.

A replica is `scripts/serve` in its own process. A door is the route from the clients to the replicas: the client's own
balancing or a proxy. The load is a number of clients that send requests without a pause.
"""
