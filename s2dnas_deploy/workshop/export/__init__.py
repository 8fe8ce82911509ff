"""Export: `model.pt` becomes a bundle, one ONNX graph per stage, verified before it is there."""
