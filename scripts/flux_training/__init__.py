"""How the demo checkpoint is trained, on a CPU: the autoencoder, the flow, its guidance, and the asset they become.

Nothing that serves, and nothing that the demo needs, imports this package.
"""
