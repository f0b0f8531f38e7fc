"""Showing thought sets: in a terminal, as plain text, as one HTML page."""
