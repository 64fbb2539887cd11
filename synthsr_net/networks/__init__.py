"""Networks: the U-Net, its normalisations and convolutions, the critic.

Imports torch alone.
"""
