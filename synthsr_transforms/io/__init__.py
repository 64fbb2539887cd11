"""Files and headers: one reader of volumes, its checks, grids and affines, one writer.

Ground floor: NumPy and NiBabel alone; imports nothing else of the project but `support`.
"""
