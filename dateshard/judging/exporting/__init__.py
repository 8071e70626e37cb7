"""A run's model as one ONNX file, which takes and gives raw values."""
