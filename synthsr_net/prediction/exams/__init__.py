"""Exams: several scans of one person, aligned and made the input of one prediction.

Imports `prediction.space`, `prediction.refinement` and the ground floor of
`synthsr_transforms`.
"""
