"""Measures the demo checkpoint on held-out images, through a running server and the client library.

No package of the product imports this one.
"""
