"""Metrics, ensembles, several views, and networks run over images."""
