"""Generations that run in the background and that callers poll or watch."""
