"""Blocks, networks and supernets. Importing the package itself does not import torch."""
import modules.modeling.zen_blocks  # noqa: F401 - registers its block types beside those of spec.py
