"""Rewards summed up to the end of their episode."""

import torch

from mbrl.core import discounted_sums


def test_sums_are_those_of_a_loop_whatever_the_lengths() -> None:
    rng = torch.Generator().manual_seed(0)
    lengths = torch.tensor([1, 7, 64, 65, 2, 300])
    ends = torch.zeros(int(lengths.sum()), dtype=torch.bool)
    ends[lengths.cumsum(0) - 1] = True
    reward, beyond = torch.randn(2, len(ends), generator=rng, dtype=torch.float64)
    for discount in (0.0, 0.5, 0.99, 1.0):
        ahead, expected = 0.0, []
        for row in reversed(range(len(ends))):
            ahead = float(reward[row]) + discount * (float(beyond[row]) if ends[row] else ahead)
            expected.append(ahead)
        found = discounted_sums(reward, ends, discount, beyond)
        torch.testing.assert_close(found, torch.tensor(expected[::-1], dtype=torch.float64), rtol=1e-12, atol=1e-12)
