"""Where randomness comes from: named streams of a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator(seed: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one named stream of randomness; streams of one seed are independent of each other."""
    return torch.Generator(device=device).manual_seed(_seed(seed, stream))


def _seed(seed: int, stream: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:7], "big")


@contextmanager
def seeded(seed: int, stream: str) -> Iterator[None]:
    """Build networks inside: torch's initialisers draw from global state, which is seeded here and put back after."""
    with torch.random.fork_rng(devices=()):  # weights are made on the CPU
        torch.default_generator.manual_seed(_seed(seed, stream))
        yield
