"""Metrics of predictions against references, for training and evaluation.

Imports `synthsr_transforms.functional`, `io` and `support`.
"""
