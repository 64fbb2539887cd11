"""Transforms of geometry: images and label maps alike.

Imports what lies beside this folder and `functional`, no other transform.
"""
