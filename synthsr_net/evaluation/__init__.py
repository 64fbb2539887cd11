"""Measured quality of a model: on held-out label maps, real scans and lesions."""
