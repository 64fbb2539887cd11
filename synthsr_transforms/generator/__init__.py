"""The generator: an ordered list of transforms, described by data, that makes training pairs.

Imports `transforms` and everything below.
"""
