"""Priors estimated from scans and their label maps.

`estimate_priors` goes from folders to `TissuePriors` in one step. `PriorEstimation` does the same
and keeps what tables, pictures and `write_estimate` need.
"""

from .estimate import ChannelEstimate, ClassRow, PriorEstimate
from .files import output_names, write_estimate
from .run import PriorEstimation, estimate_priors
from .scans import DataSet, EstimationSettings, find_data_sets
from .statistics import class_statistics, rescale_intensities, t2_cropping_stats, t2_extent

__all__ = [
    "ChannelEstimate",
    "ClassRow",
    "DataSet",
    "EstimationSettings",
    "PriorEstimate",
    "PriorEstimation",
    "class_statistics",
    "estimate_priors",
    "find_data_sets",
    "output_names",
    "rescale_intensities",
    "t2_cropping_stats",
    "t2_extent",
    "write_estimate",
]
