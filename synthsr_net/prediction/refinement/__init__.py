"""Refinements of a prediction by its scan: data consistency, contrast, lesions, brain mask.

Imports `prediction.resampling` and the ground floor of `synthsr_transforms`.
"""
