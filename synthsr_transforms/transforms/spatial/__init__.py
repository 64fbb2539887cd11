"""Transforms of geometry: images and label maps alike.

Imports `transforms.base` and `functional`, no other transform.
"""
