"""Discrete-event simulation of the scheduler under load, on a virtual clock, without a model or a GPU.

The scheduler is the class that the server uses. `machine` has the costs of a step, `workload` the requests. No serving
code imports this package.
"""
