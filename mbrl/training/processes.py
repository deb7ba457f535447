"""What the processes of one fit know together."""

from __future__ import annotations

import torch
from torch import Tensor


def summed(own: Tensor, processes: int) -> Tensor:
    """The sum of `own` over so many processes, with gradients to this one's part.

    They are `processes` times as large, for DDP takes their mean over the processes: what comes out is the gradient of
    a function of the whole sum, as one process with all the rows has it.
    """
    if processes == 1:
        return own
    total = own.detach().clone()
    torch.distributed.all_reduce(total)
    return total + processes * (own - own.detach())
