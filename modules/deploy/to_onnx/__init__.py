"""to_onnx."""
