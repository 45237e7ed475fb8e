"""Evolutionary search: the loops of all searches, and the search of subnets in `subnet`."""
