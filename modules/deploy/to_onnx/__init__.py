"""ONNX files, and the operators that onnxruntime makes of them."""
