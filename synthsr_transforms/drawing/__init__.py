"""Pictures of volumes: panels on a dark page, slices through voxels, planes through a head.

Imports `io` and `support`.
"""
