"""The network, as in the figure."""
