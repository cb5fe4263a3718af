"""The container images: their locks, building them, what they hold, and trying them."""
