"""Pure, batched tensor functions: no randomness, no files, no TorchIO.

Vocabulary shared by every module of this package:

* images are `(B, C, X, Y, Z)`, coordinates `(B, 3, X, Y, Z)` in **voxels** of the volume they read;
* matrices `(B, 4, 4)` are pull-backs: output voxel -> input voxel;
* an *axis operator* is a matrix `(B or 1, C or 1, M, N)` that maps the N samples of an axis to M.

Everything runs on the device of its first argument, without synchronising with the host.
"""
