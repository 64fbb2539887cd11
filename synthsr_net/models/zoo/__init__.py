"""Models that have a name: those that ship with the package, and those on the web.

Imports `models.checkpoint` and `synthsr_transforms.support`.
"""
