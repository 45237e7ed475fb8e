"""Checks of exported files: agreement with the network, accuracy, noise, and the classes of single images."""
