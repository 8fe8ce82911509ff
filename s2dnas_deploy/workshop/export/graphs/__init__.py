"""Graphs: what makes ONNX of stages, and what changes it: simpler, in INT8, all stages in one file."""
