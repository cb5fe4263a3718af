"""How the demo checkpoint is trained, on a CPU: the autoencoder, the flow, its guidance, what
is added to it (a ControlNet, a LoRA adapter), and the assets they become.

Nothing that serves, and nothing that the demo needs, imports this package.
"""
