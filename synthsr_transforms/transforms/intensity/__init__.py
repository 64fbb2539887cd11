"""Transforms of intensities.

Imports `transforms.base` and `functional`, no other transform.
"""
