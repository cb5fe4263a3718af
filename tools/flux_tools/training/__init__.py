"""Trains the demo checkpoint on a CPU: the autoencoder, the flow, its guidance, a ControlNet and a LoRA adapter.

It also packs the weights into the demo's assets. Neither the product nor the demo imports this package.
"""
