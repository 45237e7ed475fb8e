"""Blocks, networks and supernets. Importing the package itself does not import torch."""
