"""fitted."""
