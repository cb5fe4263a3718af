"""`scripts/bench`: flux_redux beside what people serve diffusers with, on the same machine in the same run.

Every system is a process of its own and runs alone; so is the load generator. Nothing here is imported by the server
or the client.
"""
