"""Search for hyper-parameters on Optuna: at random, in log space, coarse then fine, cross-validated, pruned, resumable.

    space = {"lr": log_uniform(1e-4, 1), "units": integer(16, 256, log=True), "activation": choice("relu", "elu")}
    result = coarse_to_fine(cross_validated(train, x, t), space, storage="search.journal", workers=4)
    print(result)
    result.plot("search.png")

A search is a study of Optuna's, `result.study`: whatever Optuna has works on it. Optuna is imported where a search
begins (pip install gradfuse[search]).
"""

from gradfuse.search.objective import CrossValidated, Report, cross_validated
from gradfuse.search.result import Result
from gradfuse.search.running import coarse_to_fine, search
from gradfuse.search.space import Distribution, choice, integer, log_uniform, uniform

__all__ = [
    "CrossValidated",
    "Distribution",
    "Report",
    "Result",
    "choice",
    "coarse_to_fine",
    "cross_validated",
    "integer",
    "log_uniform",
    "search",
    "uniform",
]
