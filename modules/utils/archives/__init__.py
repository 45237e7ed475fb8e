"""Archives of tensors and arrays, read without trusting them."""
