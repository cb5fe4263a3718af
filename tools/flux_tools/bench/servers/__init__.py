"""The alternatives, each a server around the same stock diffusers, written the way its own documentation says."""
