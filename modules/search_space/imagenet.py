"""Preparation of ImageNet's images, as published: mean and deviation of red, green and blue, and the crop."""
IMAGENET_MEAN = (123.675 / 255, 116.280 / 255, 103.530 / 255)
IMAGENET_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)
EVAL_CROP = 224 / 256  # part of the side that the centre crop of evaluation keeps
