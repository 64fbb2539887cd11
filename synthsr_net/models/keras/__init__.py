"""Weights of the original Keras network, read and written without Keras or TensorFlow."""

from .layout import KerasWeightsError
from .weights import KerasNetwork, read_keras, read_keras_network, write_keras

__all__ = ["KerasNetwork", "KerasWeightsError", "read_keras", "read_keras_network", "write_keras"]
