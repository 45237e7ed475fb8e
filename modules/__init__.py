"""Everything the command-line scripts share."""
