"""Predictions of many scans: BIDS, tasks, the runner, distribution over processes.

Imports `prediction`.
"""
