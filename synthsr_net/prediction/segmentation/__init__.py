"""Volumes and a quality score, from posteriors of structures."""
