"""The search of the best subnets of a trained supernet."""
