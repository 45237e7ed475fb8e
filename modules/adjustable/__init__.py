"""Adjustable Quantization: every channel learns its range and its number of bits."""
