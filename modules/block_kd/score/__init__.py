"""How good a search space is: the losses of its best subnets under a latency limit, estimated from block tables."""
