"""The optimisation itself: tasks that Lightning runs, objective, optimisers.

Imports `losses`, `metrics`, `networks` and `training.data`.
"""
