"""Makes a latency platform of a device: measures int8 graphs on it, fits predictors, validates them on whole networks.

    python -m modules.latency.profile --backend onnxruntime --superspace onnxw --output my_cpu
"""
