"""Predictions of any method compared with reference scans; behind `synthsr evaluate`.

Imports all of `synthsr_net` but `training`.
"""

from .scores import Pair, PairScore, evaluate, find_pairs

__all__ = ["Pair", "PairScore", "evaluate", "find_pairs"]
