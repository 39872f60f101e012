"""What to train, on what, for how long."""
