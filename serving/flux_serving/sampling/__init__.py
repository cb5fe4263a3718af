"""Noise schedule, denoising steps and previews."""
