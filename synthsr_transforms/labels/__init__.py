"""Label tables: name, side, class and tissue of each value, and summaries of label maps.

Imports `io` and `support`.
"""
