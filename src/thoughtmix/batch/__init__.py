"""Many prompts: read one by one, thought about together, written line by line."""
