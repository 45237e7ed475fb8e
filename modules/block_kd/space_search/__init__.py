"""The evolutionary search of the space whose score is best."""
