"""DICOM: folders, files and archives of studies, converted by dcm2niix, and their series.

Imports `io` and `support`.
"""
