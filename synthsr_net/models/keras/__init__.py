"""Weights of the original Keras network, read and written without Keras or TensorFlow.

Imports `networks`, `models.checkpoint` and `models.zoo.registry`.
"""
