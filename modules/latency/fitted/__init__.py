"""Latency models fitted to measured blocks, with the uncertainty of each prediction."""
