"""Models that have a name: published ones and their settings, and the files of all on disk.

Imports `models.checkpoint`, `networks` and `synthsr_transforms.support`.
"""
