"""Exports a run's weights to torchvision, safetensors or ONNX, and checks the file that was written."""
