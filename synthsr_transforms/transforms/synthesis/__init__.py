"""Transforms that make images from label maps.

Imports what lies beside this folder, `labels`, `priors` and `functional`, no other transform.
"""
