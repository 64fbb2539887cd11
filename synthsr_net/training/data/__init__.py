"""Training data: label maps held on the device, and the stream of pairs generated from them.

Imports the generator and `training.config`.
"""
