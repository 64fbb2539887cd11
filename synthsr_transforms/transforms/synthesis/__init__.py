"""Transforms that make images from label maps.

Imports `transforms.base`, `labels`, `priors` and `functional`, no other transform.
"""
