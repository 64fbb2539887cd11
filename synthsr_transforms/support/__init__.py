"""Foundations: messages, settings, downloads, devices, memory, threads, atomic writing.

Ground floor: imports nothing else of the project.
"""
