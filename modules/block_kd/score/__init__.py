"""The score of a search space: the losses of its best subnets under a latency limit, estimated from block tables."""
