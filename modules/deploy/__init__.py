"""Int8 models from a trained subnet: one lowering, then a writer for each runtime."""
