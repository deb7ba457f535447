"""What most learners are given, refused where it is out of range."""

from __future__ import annotations


def check_rates(discount: float, tau: float = 1.0) -> None:
    """Refuse what no value can be learned with.

    Args:
        discount: per step.
        tau: the rate at which slow copies follow.

    Raises:
        ValueError: discount is not within [0, 1], or tau not above 0 and up to 1.
    """
    if not 0 <= discount <= 1:
        raise ValueError(f"discount is {discount}, expected from 0 to 1, such as 0.99")
    if not 0 < tau <= 1:
        raise ValueError(f"tau is {tau}, expected above 0 and up to 1 (slow copies that are none), such as 0.005")


def check_conservatism(conservatism: float, samples: int) -> None:
    """Refuse what no gap between sampled and logged actions can be weighed with.

    Raises:
        ValueError: conservatism is negative, or samples is below 1.
    """
    if not conservatism >= 0:
        raise ValueError(f"conservatism is {conservatism}, expected 0 (none) or more")
    if samples < 1:
        raise ValueError(f"samples is {samples}, expected at least 1 action of each kind")
