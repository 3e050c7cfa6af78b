"""Tensors in files, without any knowledge of networks: reading, checking and writing whole or not at all."""
