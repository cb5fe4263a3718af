"""The networks of FLUX: transformer, ControlNet, LoRA adapters, VAE."""
