"""Work beside the optimisation: metrics, pictures, curves, saved states and models.

Imports `training.task`.
"""
