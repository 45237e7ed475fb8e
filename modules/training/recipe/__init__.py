"""Additions of a recipe to the training of a network: mixed images, initialisation, a teacher."""
