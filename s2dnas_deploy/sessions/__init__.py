"""onnxruntime, as both wings use it: execution providers, sessions, a chain run without anyone exiting."""
