"""Generated hostile inputs, reproducible by their number, with the expected codes."""
