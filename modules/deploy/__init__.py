"""From a trained subnet to int8 models: one lowering, then a writer for each runtime."""
