"""How good a fit is: evaluation, calibration, comparison and pictures."""

from pyro_turbovbi.diagnostics.calibration import (
    error_rate,
    expected_calibration_error,
    negative_log_likelihood,
    root_mean_square_error,
)
from pyro_turbovbi.diagnostics.comparison import Comparison, ComparisonRow, compare
from pyro_turbovbi.diagnostics.evaluation import Metrics, evaluate
from pyro_turbovbi.diagnostics.recovery import f1_score

__all__ = [
    "Comparison",
    "ComparisonRow",
    "Metrics",
    "compare",
    "error_rate",
    "evaluate",
    "expected_calibration_error",
    "f1_score",
    "negative_log_likelihood",
    "root_mean_square_error",
]
