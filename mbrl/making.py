"""What a run makes of each candidate: a policy for each of its seeds, one by one or all at once."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mbrl import files
from mbrl.core import Learner, Policy, Spec
from mbrl.registry.gates import CANDIDATE, CHAMPION, CLONING, LOG
from mbrl.settings import Candidate, Rehearsal
from mbrl.training.population import Crowd, Population, apart
from mbrl.worlds import built


class Making(NamedTuple):
    """One rehearsal: of a learner, or of a population whose members differ by their seed."""

    name: str
    candidate: Candidate
    seeds: tuple[int, ...]
    policies: tuple[str, ...]  # the names of what comes out, one a seed

    @property
    def stage(self) -> str:
        """Of the run; and the name of the checkpoint, which for a population is none that a policy could have."""
        own = stage_of(self.name)
        return own if len(self.seeds) == 1 else own.replace("policy", "policies", 1)

    @property
    def rehearsal(self) -> Rehearsal:
        """How long and on what."""
        return self.candidate.rehearsal

    def learner(self, spec: Spec) -> Learner:
        """A new one.

        Raises:
            ValueError: of several seeds, where the learner cannot be trained as a population.
        """
        one = built("policy", self.candidate.learner, spec, self.seeds[0])
        return one if len(self.seeds) == 1 else Population(spec, one.config, list(self.seeds))

    def made(self, policy: Policy, folder: Path) -> dict[str, Policy]:
        """The policies by name, of what the rehearsal has made; a population leaves a checkpoint of each of them."""
        if not isinstance(policy, Crowd):
            return {self.policies[0]: policy}
        paths = {name: folder / f"{stage_of(name)}.ckpt" for name in self.policies}
        if not all(path.exists() for path in paths.values()):
            together = files.load(folder / f"{self.stage}.ckpt")
            for path, content in zip(paths.values(), apart(together, len(paths)), strict=True):
                files.save(path, content)
        return {name: policy.single(k) for k, name in enumerate(paths)}


def stage_of(name: str) -> str:
    """The stage of a candidate, or of one of its policies."""
    return "policy" if name == CANDIDATE else f"policy-{name}"


def makings(
    candidates: Mapping[str, Candidate], seed: int, seeds: Sequence[int] | None, batched: bool
) -> dict[str, Making]:
    """What is to be made, by name.

    Args:
        candidates: by name; a single one is called CANDIDATE.
        seed: of the run, which each candidate has where there are no `seeds`.
        seeds: a policy of each candidate for each of them, CANDIDATE-SEED; of a single one seed-SEED.
        batched: whether one rehearsal is of all seeds.

    Raises:
        ValueError: there are no candidates, one has a name that files and tables cannot carry, or two policies would
            have the same.
    """
    check_names(candidates)
    if seeds is None:
        return {name: Making(name, one, (seed,), (name,)) for name, one in candidates.items()}
    found, policies = dict[str, Making](), list[str]()
    for name, one in candidates.items():
        names = tuple(f"{'seed' if name == CANDIDATE else name}-{own}" for own in seeds)
        policies += names
        if batched and len(seeds) > 1:
            found[name] = Making(name, one, tuple(seeds), names)
        else:
            found |= {label: Making(label, one, (own,), (label,)) for label, own in zip(names, seeds, strict=True)}
    check_names(policies)
    if twice := sorted({name for name in policies if policies.count(name) > 1}):
        raise ValueError(
            f"two policies would be called {', '.join(twice)}, as a policy is called by its candidate and its seed:"
            " give the candidates other names"
        )
    return found


def check_names(names: Collection[str]) -> None:
    """Refuse candidates without names that files and tables can carry.

    Raises:
        ValueError: there are no candidates, or one has such a name.
    """
    if not names:
        raise ValueError("there is no candidate: give a learner, or candidates with a learner each")
    for name in names:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", name) or name in (LOG, CLONING, CHAMPION):
            raise ValueError(
                f"candidates has one called {name!r}, expected up to 32 of a-z, 0-9, _ and -, and not"
                f" {LOG} or {CHAMPION}, such as mopo-5"
            )
