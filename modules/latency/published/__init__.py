"""Platforms fitted to the published block tables; `python -m modules.latency.published` fits them anew."""
