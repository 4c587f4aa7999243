"""Searches of settings: small sizes first, and a verdict on photos that chose nothing."""
