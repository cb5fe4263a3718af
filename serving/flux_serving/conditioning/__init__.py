"""Conditions of an image: Redux images and prompts as weighted context tokens."""
