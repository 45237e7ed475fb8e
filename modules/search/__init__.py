"""Evolutionary search, independent of what is searched."""
