"""Linear layers that are computed together."""
