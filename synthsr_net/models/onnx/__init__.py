"""Models as ONNX files.

Imports `networks` and `models.checkpoint`.
"""
