"""From a folder of images to a verified INT8 file in one command, through the scripts that a user would call."""
