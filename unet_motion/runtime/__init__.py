"""How steps are run: recorded and replayed."""
