"""A discrete-event simulation of the scheduler under load: many requests on a virtual clock, no model, no GPU.

The scheduler is the very class that serves; what a step costs comes from `machine`, what is asked from `workload`.
Nothing that serves imports this package.
"""
