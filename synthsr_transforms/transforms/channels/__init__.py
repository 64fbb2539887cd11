"""Transforms of channels and of the set of images.

Imports what lies beside this folder and `functional`, no other transform.
"""
