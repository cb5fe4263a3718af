"""Renders files from the contract: Triton's configurations and the tables of the documentation."""
