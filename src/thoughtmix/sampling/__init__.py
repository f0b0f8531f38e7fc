"""The `sampling` thinker: plain sampling from the model, the baseline that every other thinker must beat."""
