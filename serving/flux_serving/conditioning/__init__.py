"""The conditions of generated images: Redux images and prompts as weighted context tokens."""
