"""How steps of a model are run."""
