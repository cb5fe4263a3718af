"""Builds, describes and checks the container images, and locks their packages."""
