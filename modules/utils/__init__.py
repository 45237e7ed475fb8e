"""Errors, command lines, files, checkpoints and run records, for every package here."""
