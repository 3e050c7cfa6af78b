"""Configurations read off the names and shapes of tensors."""
