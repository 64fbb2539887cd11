"""Prediction: scans in, 1 mm T1-weighted scans out, with one model.

Imports `models`, `inference` and the ground floor of `synthsr_transforms` (`io`, `support`,
`functional`); never TorchIO or the generator.
"""
