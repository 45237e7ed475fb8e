"""Training and evaluation of supernets."""
