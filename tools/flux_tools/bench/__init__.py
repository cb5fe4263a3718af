"""`scripts/bench`: compares flux-triton with other ways to serve diffusers, on the same machine in the same run.

Every system runs alone in its own process, and so does the load generator. The server and the client import nothing
from here.
"""
