"""Training: one network through its sizes, and what watches it."""
