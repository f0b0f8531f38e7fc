"""The bench: thinkers beside each other, on equal terms, with intervals."""
