"""space_search."""
