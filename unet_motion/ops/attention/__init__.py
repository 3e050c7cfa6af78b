"""Attention: the processors that compute it, and the code of those that are ours."""
