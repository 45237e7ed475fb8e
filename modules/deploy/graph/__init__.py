"""The inference graph: a network lowered to integers, planned as steps of an engine, and run in NumPy."""
