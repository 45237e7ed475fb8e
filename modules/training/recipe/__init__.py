"""What a recipe adds to the training of a network: mixed images, its initialisation, a teacher."""
