"""Priors estimated from scans and their label maps.

`estimate_priors` goes from folders to `TissuePriors` in one step. `PriorEstimation` does the same
and keeps the statistics for tables, pictures and `write_estimate`. Imports `priors`, `subjects` and
everything below.
"""

from .estimate import PriorEstimate as PriorEstimate
from .estimate import PriorEstimation as PriorEstimation
from .estimate import estimate_priors as estimate_priors
from .files import check_output as check_output
from .files import write_estimate as write_estimate
from .scans import EstimationSettings as EstimationSettings
from .scans import find_data_sets as find_data_sets
