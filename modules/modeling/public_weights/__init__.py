"""Weights that others published, under this project's names."""
