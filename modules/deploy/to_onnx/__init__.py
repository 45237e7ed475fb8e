"""ONNX files, and the operators that onnxruntime runs for them."""
