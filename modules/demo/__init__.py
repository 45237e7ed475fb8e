"""The pipeline at small scale, through the scripts a user would call."""
