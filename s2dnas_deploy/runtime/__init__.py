"""The device wing: onnxruntime and numpy, never torch. Runs bundles."""
