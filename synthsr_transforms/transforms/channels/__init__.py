"""Transforms of channels and of the set of images.

Imports `transforms.base`, no other transform.
"""
