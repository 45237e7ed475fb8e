"""Several scores as one, and rank correlations of a score."""
from __future__ import annotations

import numpy as np


def rank_aggregate(scores: np.ndarray) -> np.ndarray:
    """One score out of several, by ranks, as AZ-NAS aggregates them (Lee and Ham, CVPR 2024).

    Args:
        scores: (networks, scores), higher is better, such as (200, 3).

    Returns:
        (networks,), such as (200,): the sum over scores of ln(rank / networks). It is 0 for a network that is the best
        by all scores. A last rank in one score costs a network much, whatever the other scores. Ties share their mean
        rank.
    """
    from scipy.stats import rankdata

    return np.log(rankdata(scores, axis=0) / len(scores)).sum(1)


def rank_correlations(score: np.ndarray, quality: np.ndarray) -> tuple[float, float]:
    """Kendall's tau-b and Spearman's rho of two (n,) arrays; nan if one of them is constant."""
    from scipy.stats import kendalltau, spearmanr

    if len(score) < 2 or np.ptp(score) == 0 or np.ptp(quality) == 0:
        return float("nan"), float("nan")
    return float(kendalltau(score, quality).statistic), float(spearmanr(score, quality).statistic)
