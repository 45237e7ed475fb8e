"""subnet."""
