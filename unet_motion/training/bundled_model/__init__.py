"""How the bundled model was made."""
