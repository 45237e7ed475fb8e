"""The score of a network at given bits: costs of its layers, the official counting, and the table."""
