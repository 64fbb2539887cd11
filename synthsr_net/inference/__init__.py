"""Forward passes of a network over whole volumes: precision, slabs, tiles, memory.

Imports `networks`.
"""
