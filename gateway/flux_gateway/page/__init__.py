"""The page at `/`: its files, which need no build and nothing from other hosts."""
