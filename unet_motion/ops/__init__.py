"""What is computed, and by which code: a folder for each operation, plain code first and the fast ways beside it."""
