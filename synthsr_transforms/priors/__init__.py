"""Tissue priors: the distributions of the intensities of each tissue class, and their files.

Imports `labels`, `io` and `support`.
"""
