"""Transforms of intensities.

Imports what lies beside this folder and `functional`, no other transform.
"""
