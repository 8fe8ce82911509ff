"""The bridge between the wings: files that both sides agree on. Imports neither torch nor onnxruntime."""
