"""Errors, command lines, files, checkpoints and run records: what every package here may use."""
