"""What steers a clip beside its text."""
