"""A bundle for NVIDIA's Triton Inference Server: a model for each stage, and one that sends images along."""
