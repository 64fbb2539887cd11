"""Generation jobs: many samples on disk, each of which can be made again.

Imports `generator`, `subjects` and everything below.
"""
