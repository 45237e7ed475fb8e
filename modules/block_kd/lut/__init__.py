"""Block tables: the loss, size and latency of a stage's choices of blocks, measured, written and read."""
