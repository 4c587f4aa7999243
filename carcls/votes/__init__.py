"""Votes: what views say of photos, and what follows from it."""
