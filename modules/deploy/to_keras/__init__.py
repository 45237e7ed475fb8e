"""Networks as Keras models, and TensorFlow's own converter, the baseline of our TFLite files."""
