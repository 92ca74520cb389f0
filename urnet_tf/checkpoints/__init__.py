"""Readers of other people's weights."""
