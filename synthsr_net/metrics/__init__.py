"""Metrics of predictions against references, for training and evaluation: L1, PSNR, SSIM, Dice.

Imports `synthsr_net.losses`, and of `synthsr_transforms` `functional`, `io`, `labels`, `support`.
"""
