"""Work beside the optimisation: metrics, pictures, curves, saved states and models.

Imports `training.task` and `training.setup`.
"""
