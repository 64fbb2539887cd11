"""Predictions of any method compared with reference scans; behind `synthsr evaluate`.

Imports all of `synthsr_net` but `training`.
"""

from .pairs import Pair, find_pairs
from .scores import PairScore, evaluate

__all__ = ["Pair", "PairScore", "evaluate", "find_pairs"]
