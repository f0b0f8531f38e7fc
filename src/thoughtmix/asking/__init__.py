"""Asking for several answers: lists, conversations that go on, specifications, and which answers agree."""
