"""Prediction: scans in, 1 mm T1-weighted scans out, with one model."""

from .predictor import Predictor, Prepared
from .settings import PredictError, PredictorSettings

__all__ = ["PredictError", "Predictor", "PredictorSettings", "Prepared"]
