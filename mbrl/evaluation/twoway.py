"""The mean of a table by member of a model and by start state, with an interval for both."""

from __future__ import annotations

import numpy as np
from scipy import stats

from mbrl.data.series import Pieces
from mbrl.evaluation.estimates import Estimate
from mbrl.evaluation.stretches import known_mean, stretches


def spread_over(values: np.ndarray, level: float, pieces: Pieces | None = None) -> Estimate:
    """The mean of [E, S] values, by member and start state, with bounds for what a member that nobody fitted would say.

    The truth is taken for one more draw from where the members came from, so the variance of the members' means counts
    in full, (1 + 1/E) times, and is not divided by their number; that of the starts' means is divided by S (where
    starts are of pieces of one series, it is that of stretches, see `mbrl.evaluation.stretches`). So does
    Rubin 1987 (equation 3.1.5) pool multiple imputations; where members are fitted on bootstrap samples of the
    episodes, theirs is the variance of one fit over logs (Hao et al. 2021, "Bootstrapping fitted Q-evaluation").
    Degrees of freedom are those of Welch and Satterthwaite, the quantile is Student's. It knows of the errors that
    members do not share: of those that they share (too narrow a log, too simple a model) no spread over members can
    tell.

    Args:
        values: finite numbers; rows that are one and the same for all starts, or columns for all members, are allowed.
        level: of each one-sided bound, above 0.5 and below 1.
        pieces: of the episodes that the starts are of; None where all are independent.

    Returns:
        `effective_n` counts stretches. low = -inf and high = inf for a single start, NaN bounds where a value is not
        finite. A single member has no spread to show, and its bounds are those of the start states alone: diagnostics
        count the members.

    Raises:
        ValueError: there are no values, or level is out of range.
    """
    if values.ndim != 2 or not values.size:
        raise ValueError(f"values has shape {list(values.shape)}, expected [members, starts], at least one of each")
    if not 0.5 < level < 1:
        raise ValueError(f"level is {level}, expected a one-sided level between 0.5 and 1")
    table = values.astype(np.float64)
    members, starts = table.shape
    about = {"interval": "members and starts", "level": level, "members": members}
    if not np.isfinite(table).all():
        return Estimate(float(table.mean()), np.nan, np.nan, starts, about)
    value = float(table.mean())
    if starts == 1:
        return Estimate(value, -np.inf, np.inf, 1, about)
    means = table.mean(0)
    variance, independent = known_mean(means, stretches(means, pieces))
    parts, freedom = [variance], [independent - 1]
    if members > 1:
        parts.append(table.mean(1).var(ddof=1) * (1 + 1 / members))
        freedom.append(members - 1)
    variance = sum(parts)
    if variance == 0:
        return Estimate(value, value, value, independent, about)
    welch = variance**2 / sum(part**2 / df for part, df in zip(parts, freedom, strict=True))
    half = float(stats.t.ppf(level, welch) * np.sqrt(variance))
    return Estimate(value, value - half, value + half, independent, {**about, "degrees_of_freedom": float(welch)})
