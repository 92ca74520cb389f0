"""Exports of a trained classifier, the proof that they equal it, and what reads and serves them."""
