"""The generators of files by name: each writes one file, or a folder, and gives its path."""

from . import configs, headers, pickles

GENERATORS = {"headers": headers.make, "pickles": pickles.make, "configs": configs.make}
NUMBERS = {"headers": (100, 10_000), "pickles": (60, 2_000), "configs": (40, 1_000)}
"""How many are tried by default, and where all are asked for."""
