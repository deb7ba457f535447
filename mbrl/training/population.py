"""Learners that differ by their seed alone, as one: every weight has a leading axis, one entry a member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from mbrl.core import Batch, Learner, Policy, Spec, World, build, seeded
from mbrl.descent import mapped
from mbrl.training.room import check_room, weight_bytes


@final
class Crowd(Policy):
    """P policies of one kind as one, whose weights are [P, ...]; rows come member after member.

    Args:
        spec: of the log.
        policy: the configuration of each.
        members: P.
    """

    def __init__(self, spec: Spec, policy: dict[str, Any], members: int) -> None:
        super().__init__(spec)
        self.policy: Policy = build(policy, Policy, spec)
        self.members = members

    @classmethod
    def of(cls, stacked: Policy, members: int) -> Self:
        """Around this very policy, whose weights are stacked already."""
        with seeded(0, "population"):  # random weights that the very policy takes the place of
            made = cls(stacked.spec, stacked.config, members)
        made.policy = stacked
        return made

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        """Actions [P B, A] for observations [P B, O]."""
        action: Tensor = over_members(self.policy, "act", obs.unflatten(0, (self.members, -1)), rng)
        return action.flatten(0, 1)

    def single(self, member: int) -> Policy:
        """A policy of its own, with a copy of that member's weights."""
        with seeded(0, "population"):  # random weights that are about to be overwritten
            found: Policy = build(self.policy.config, Policy, self.spec)
        found.load_state_dict({name: value[member] for name, value in self.policy.state_dict().items()})
        return found.to(next(self.policy.parameters()).device).eval()


@final
class Population(Learner):
    """P learners of one configuration that are improved together: actors, critics and optimisers with a leading axis.

    `update` of one learner is mapped over the weights (`torch.func.vmap`), so that what a GPU is given are P times
    larger operations, not P times as many. No member reads anything of another: their losses have no weight in common,
    and Adam goes element by element. What they share is the stream of noise, so that a member is not, bit by bit, what
    it would have become alone; its first weights are the same.

    Rows come member after member: `update` takes P times the rows of one, and its metrics are means over members.

    Args:
        spec: of the log.
        learner: the configuration of each.
        seeds: of their first weights, P different ones.

    Raises:
        ValueError: there are no seeds, or one twice, or more than fit into memory; or each of the learners has a
            simulator of its own, which it changes or plans in.
    """

    def __init__(self, spec: Spec, learner: dict[str, Any], seeds: Sequence[int]) -> None:
        super().__init__(spec)
        if not seeds or len(set(seeds)) != len(seeds):
            raise ValueError(f"seeds are {list(seeds)}, expected different numbers, at least one")
        members: list[Learner] = []
        for seed in seeds:
            with seeded(seed, "policy"):
                members.append(build(learner, Learner, spec))
            if len(members) == 1:
                check_one(members[0])
                check_room("seeds", len(seeds), weight_bytes(members[0]), torch.device("cpu"), "one of them")
        self.members = len(members)
        self.config["init_args"]["learner"] = members[0].config  # defaults and all, as a checkpoint of one has it
        self.learner: Learner = stacked(members)
        self.imagines, self.grounded = self.learner.imagines, self.learner.grounded
        self.optimizers = self.learner.optimizers
        # kept out of the state dict, which has their weights as the learner's
        self._policies = tuple(Crowd.of(one, self.members) for one in (self.learner.policy, self.learner.rehearsing))

    @property
    def policy(self) -> Crowd:
        return self._policies[0]

    @property
    def rehearsing(self) -> Crowd:
        return self._policies[1]

    @property
    def studies(self) -> bool:
        return self.learner.studies

    def study(self, real: Batch, ends: Tensor | None) -> Batch:
        with seeded(0, "population"):  # random weights that nobody reads
            one: Learner = build(self.learner.config, Learner, self.spec).to(real.obs.device)
        before = {name: value.clone() for name, value in one.named_buffers()}
        lessons = one.study(real, ends)
        for name, value in one.named_buffers():
            if not torch.equal(value, before[name]):
                self.learner.get_buffer(name).copy_(value)  # to every member
        return lessons

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        rows = (self._dealt(real),) if imagined is None else (self._dealt(real), self._dealt(imagined))
        try:
            found: dict[str, Tensor] = over_members(_Improved(self.learner), "update", rows, rng, simulator)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RuntimeError(
                f"{type(self.learner).__name__}.update cannot be mapped over a population ({error}): step its"
                " optimisers by mbrl.core.descend, or set population to processes"
            ) from error
        return {name: value.mean(0) for name, value in found.items()}

    def enter(self, simulator: World) -> World:
        return self.learner.enter(simulator)

    def _dealt(self, rows: Batch) -> Batch:
        """[P B, ...] -> [P, B, ...]."""
        return Batch(*(column.unflatten(0, (self.members, -1)) for column in rows))


def check_one(learner: Learner) -> None:
    """Refuse what a population cannot be made of.

    Raises:
        ValueError: the learner has a simulator of its own.
    """
    if learner.plans or learner.remodels:
        raise ValueError(
            f"{type(learner).__name__} has a simulator of its own, and a population shares one: set population to"
            " processes"
        )


class _Improved(nn.Module):
    """A learner whose `update` is given its rows in one argument, of which the imagined ones may be missing."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def update(self, rows: Sequence[Batch], rng: torch.Generator, simulator: World | None) -> dict[str, Tensor]:
        real, *imagined = rows
        return self.learner.update(real, imagined[0] if imagined else None, rng, simulator)


class _Called(nn.Module):
    """A method of a module as `forward`, which is what `functional_call` calls."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, *given: Any) -> Any:
        return getattr(self.module, self.method)(*given)


def over_members(module: nn.Module, method: str, rows: Any, *rest: Any) -> Any:
    """`module.method(rows, *rest)` of every member, whose weights are `module`'s along the leading axis.

    `rows` (tensors, or nested tuples of them) and what is returned have that axis too; `rest` is the same for all.
    Noise is drawn for each member anew.
    """
    called = _Called(module, method)

    def of_one(own: dict[str, Tensor], given: Any) -> Any:
        return functional_call(called, own, (given, *rest))

    with mapped():
        return vmap(of_one, randomness="different")(_named(called), rows)


def stacked(learners: Sequence[Learner]) -> Learner:
    """The first of them with the weights of all: parameters, buffers and optimisers have a leading axis [P, ...]."""
    first, every = learners[0], [_named(one) for one in learners]
    new = {old: _together([one[name] for one in every]) for name, old in every[0].items()}
    for module in list(first.modules()):
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for table in tables:
            table.update({name: new[old] for name, old in table.items() if old is not None})
    for optimizer in first.optimizers.values():
        for group in optimizer.param_groups:
            group["params"] = [new[old] for old in group["params"]]
    return first


def _named(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _together(each: Sequence[Tensor]) -> Tensor:
    """[P, ...], a parameter of parameters."""
    made = torch.stack([one.detach() for one in each])
    if isinstance(each[0], nn.Parameter):
        return nn.Parameter(made, requires_grad=each[0].requires_grad)
    return made


def apart(checkpoint: Mapping[str, Any], members: int) -> list[dict[str, Any]]:
    """The checkpoint of each member of a population, as if it had been trained alone; see `training.checkpoint`."""
    learner, ring = checkpoint["config"]["init_args"]["learner"], checkpoint["ring"]
    return [
        {
            **checkpoint,
            "config": learner,
            "state_dict": _own(checkpoint["state_dict"], "learner.", k),
            "optimizers": {name: _own_moments(state, k) for name, state in checkpoint["optimizers"].items()},
            "ring": {
                "written": ring["written"] // members,
                "capacity": ring["capacity"] // members,
                "rows": {name: column[k::members].clone() for name, column in ring["rows"].items()},
            },
            "average": checkpoint["average"] and _own(checkpoint["average"], "policy.", k),
        }
        for k in range(members)
    ]


def _own(weights: Mapping[str, Tensor], prefix: str, member: int) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value[member].clone() for name, value in weights.items()}


def _own_moments(state: Mapping[str, Any], member: int) -> dict[str, Any]:
    """An optimiser's state, of which only the number of steps is a scalar, and the same for all."""
    moments = {
        number: {name: value[member].clone() if value.dim() else value for name, value in of.items()}
        for number, of in state["state"].items()
    }
    return {**state, "state": moments}
