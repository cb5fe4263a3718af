"""The engine's threads, and the scheduler that decides which jobs run in the next denoising step."""
