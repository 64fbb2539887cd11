"""Training data: label maps kept on the device, and the stream of pairs generated from them.

Imports the generator and `training.config`.
"""
