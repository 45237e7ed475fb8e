"""The mean and deviation of ImageNet's colours, red, green and blue, of values in 0 ... 1, as published."""
IMAGENET_MEAN = (123.675 / 255, 116.280 / 255, 103.530 / 255)
IMAGENET_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)
