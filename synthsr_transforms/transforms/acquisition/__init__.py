"""Transforms that simulate the acquisition: slices, resolution, fields of view, registration.

Imports what lies beside this folder and `functional`, no other transform.
"""
