"""What travels with one forward call."""
