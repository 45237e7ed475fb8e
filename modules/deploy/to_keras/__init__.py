"""Networks as Keras models, and TensorFlow's own converter, which our TFLite files are measured against."""
