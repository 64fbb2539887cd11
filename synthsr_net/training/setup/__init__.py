"""From settings and label maps to everything that a run needs, checked before it starts.

Imports `training.data`, `training.task` and `models`.
"""
