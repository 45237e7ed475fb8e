"""Latency models that are fitted to measured blocks, and know how sure they are."""
