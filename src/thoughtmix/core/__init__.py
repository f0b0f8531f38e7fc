"""What every other part stands on: types, errors, the registry of thinkers, choosing among thoughts. No torch."""

__version__ = "0.1.0"
