"""Models as ONNX graphs for other runtimes: needs torch and onnx to write, neither to read."""
