"""Exams: several scans of one person, aligned and made the input of one prediction.

Imports `prediction.preprocess`, `prediction.refinement` and the ground floor of
`synthsr_transforms`.
"""
