"""Transforms that simulate the acquisition: slices, resolution, fields of view, registration.

Imports `transforms.base` and `functional`, no other transform.
"""
