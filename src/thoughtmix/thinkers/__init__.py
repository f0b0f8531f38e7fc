"""The ways to explore, one file each: a module here that defines `THINKER` is a thinker."""
