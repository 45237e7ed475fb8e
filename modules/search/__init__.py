"""Evolutionary search: the loop that every search runs, and the search of subnets in `subnet`."""
