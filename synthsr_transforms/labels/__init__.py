"""Label tables: what each value of a label map means, and what a set of label maps holds.

Imports `io` and `support`.
"""
