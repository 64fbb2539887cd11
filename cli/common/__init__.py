"""Shared by commands: options, errors, progress and descriptions."""
