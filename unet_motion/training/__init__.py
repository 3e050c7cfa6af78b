"""Training of the bundled text-to-video model, and the measurements made of it."""
