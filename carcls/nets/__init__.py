"""Networks: which there are, their weights, head and schedule."""
