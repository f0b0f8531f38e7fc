"""Exploratory sampling: rows of one set learn from each other's hidden states where they have been, and leave it."""
