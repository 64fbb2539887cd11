"""Kernels for NVIDIA GPUs, in Triton: passes over voxels that torch has no operation for.

Only `functional` uses them, each beside the plain operations that it equals; `*_program.py` is what
runs on the GPU, and nothing imports it or Triton before a tensor that it can take.
"""
