"""One command from a folder of images to a verified INT8 file, through the scripts of the project."""
