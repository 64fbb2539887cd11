"""Models: their files, loading by name, weights of the original, export to ONNX.

Imports `networks` and the ground floor of `synthsr_transforms`.
"""
