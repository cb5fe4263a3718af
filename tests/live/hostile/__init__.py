"""Generated hostile inputs, reproducible by their number, and the codes that answer each of them."""
