"""How good a fit is: evaluation, calibration, cross-validation, comparison and pictures."""

from pyro_turbovbi.diagnostics.calibration import (
    Reliability,
    brier_score,
    error_rate,
    expected_calibration_error,
    negative_log_likelihood,
    probability_integral_transform,
    reliability,
    root_mean_square_error,
)
from pyro_turbovbi.diagnostics.comparison import Comparison, ComparisonRow, compare
from pyro_turbovbi.diagnostics.evaluation import Metrics, evaluate
from pyro_turbovbi.diagnostics.inference_data import to_inference_data
from pyro_turbovbi.diagnostics.khat import KHat, variational_khat
from pyro_turbovbi.diagnostics.loo import LeaveOneOut, Ranking, leave_one_out, rank
from pyro_turbovbi.diagnostics.ood import Uncertainty, auroc, ood_auroc, uncertainty
from pyro_turbovbi.diagnostics.recovery import f1_score

__all__ = [
    "Comparison",
    "ComparisonRow",
    "KHat",
    "LeaveOneOut",
    "Metrics",
    "Ranking",
    "Reliability",
    "Uncertainty",
    "auroc",
    "brier_score",
    "compare",
    "error_rate",
    "evaluate",
    "expected_calibration_error",
    "f1_score",
    "leave_one_out",
    "negative_log_likelihood",
    "ood_auroc",
    "probability_integral_transform",
    "rank",
    "reliability",
    "root_mean_square_error",
    "to_inference_data",
    "uncertainty",
    "variational_khat",
]
