"""Files and headers: the reader of volumes, its checks, grids and affines, writing.

Imports NumPy, NiBabel and `support`.
"""
