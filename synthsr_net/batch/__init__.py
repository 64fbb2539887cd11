"""Predictions of many scans: what to do, doing it, and sharing it among processes."""
