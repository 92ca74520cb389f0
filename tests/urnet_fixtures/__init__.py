"""Fixtures of several rooms of tests; pyproject.toml puts `tests/` on the path."""
