"""The evolutionary search for the space with the best score."""
