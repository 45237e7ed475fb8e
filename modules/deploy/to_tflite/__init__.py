"""to_tflite."""
