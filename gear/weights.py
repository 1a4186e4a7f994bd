"""Shares and weights of control groups of version 1 as weights of version 2."""

from __future__ import annotations

import math


def weight_of_shares(shares: int) -> int:
    """cpu.weight (1 to 10000) for cpu.shares (2 to 262144).

    A curve through the ends and through both defaults, 1024 shares and weight 100, as runc and crun have it since 2025.
    The straight line of before gives 1024 shares the weight 39, so a container that asks for the default would get two
    fifths of what every service beside it gets.
    """
    logarithm = math.log2(min(max(shares, 2), 262144))
    exponent = (logarithm * logarithm + 125 * logarithm) / 612 - 7 / 34
    # Rounded first: 10 ** 2.0000000000000004 must not become 101.
    return math.ceil(round(10**exponent, 6))


def io_weight(weight: int) -> int:
    """io.weight (1 to 10000) for a block weight of version 1 (10 to 1000), on a straight line."""
    return 1 + (weight - 10) * 9999 // 990
