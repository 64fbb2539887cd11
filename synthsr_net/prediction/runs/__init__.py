"""Predictions of many scans: inputs, pairing, BIDS, tasks, the runner, distribution.

Imports `prediction`.
"""
