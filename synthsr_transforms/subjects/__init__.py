"""Subjects: label maps with their images, found, paired, read, and public data sets by name.

Imports `labels`, `io` and `support`.
"""
