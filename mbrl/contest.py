"""`mbrl compare`: learners side by side on logs, over seeds; every cell is an `mbrl run` in a process of its own."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from mbrl import files
from mbrl.__main__ import config_file
from mbrl.core import Learner, build, seeded
from mbrl.data import minari
from mbrl.data.sight import seen
from mbrl.engines import Ended, Engine, Member, complaint, lost, write
from mbrl.evaluation.estimates import Estimate
from mbrl.limits import check_seeds
from mbrl.making import check_names
from mbrl.report.console import tell
from mbrl.standings import Arena, Contest, Score, left_out, scores_of, told

LONGEST = 100  # characters of a folder's name
REHEARSAL = re.compile(r"--rehearsal\.(?!updates=)")  # settings that candidates have their own of
OWN = ("learner", "rehearsal", "candidates")  # settings that are a learner's; the others are of the run that it is in


class Cell(NamedTuple):
    """A run, and what is wanted of it."""

    member: Member
    arena: Arena
    seed: int
    learners: Sequence[str]
    settings: Mapping[str, Any]

    @classmethod
    def made(cls, name: str, folder: Path, arena: Arena, learners: Sequence[str], settings: Mapping[str, Any]) -> Cell:
        """The run of this name in a folder."""
        whole = {**settings, "name": name}
        return cls(Member.of(name, folder), arena, settings["seed"], learners, whole)

    @property
    def apart(self) -> list[Cell]:
        """A run for each of its learners."""
        name, folder, several = self.member.name, self.member.path.parent, self.settings["candidates"]
        return [
            Cell.made(f"{name}-{one}", folder, self.arena, [one], {**self.settings, "candidates": {one: several[one]}})
            for one in self.learners
        ]

    @property
    def parted(self) -> bool:
        """Whether an earlier call has begun to run its learners one by one."""
        if len(self.learners) == 1 or self.member.result.exists():
            return False
        return any(cell.member.path.exists() for cell in self.apart)


def contest(
    data: str,
    env: str | None,
    learners: str,
    seeds: Sequence[int],
    more: Sequence[str],
    together: int | None,
    folder: Path | None,
) -> Contest:
    """The comparison that a command line asks for; see `stages.compare`.

    Raises:
        ValueError: a learner has no configuration, or there are not as many environments as logs, or a seed is there
            twice, or fewer than one learner is to have a run.
    """
    if together is not None and together < 1:
        raise ValueError(f"together is {together}, expected at least 1 learner a run")
    ids = [part.strip() for part in data.split(",")]
    envs: list[str | None] = [None] * len(ids)
    if env is not None:
        envs = [None if part.strip() == "-" else part.strip() for part in env.split(",")]
    if len(envs) != len(ids):
        raise ValueError(f"env names {len(envs)} environments for {len(ids)} logs: one for each, - where there is none")
    check_seeds(seeds)
    for id in ids:
        minari.check_id(id)
    arenas = [Arena(*pair) for pair in zip(ids, envs, strict=True)]
    names = [arena.name for arena in arenas]
    if odd := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"data names several logs whose runs would be called {', '.join(odd)}: compare them in folders of their own"
        )
    found = configurations("learners", learners)
    place = (folder or files.home() / "comparisons" / "-".join(names)[:LONGEST]).absolute()
    if (place / "config.yaml").exists():
        raise ValueError(
            f"folder is {place}, which holds a run: give a new one, or that of the comparison to go on with"
        )
    return Contest(arenas, found, seeds, more, together, place)


def configurations(setting: str, names: str) -> dict[str, Path]:
    """The files of configurations by name, from names or paths with commas between them.

    Raises:
        ValueError: one of them is not there.
    """
    found: dict[str, Path] = {}
    for name in (part.strip() for part in names.split(",")):
        path = Path(name) if name.endswith(".yaml") else config_file(f"{name}.yaml")
        if not path.exists():
            raise ValueError(f"{setting} has {name!r}, and there is no {path}: name a configuration, or a YAML file")
        called = path.stem.replace(".", "-").lower()
        if called in found:
            raise ValueError(f"{setting} names {called} twice ({found[called]} and {path}): name each once")
        found[called] = path
    return found


def hold(asked: Contest, engine: Engine) -> dict[str, Any]:
    """Run every cell that has not been run, and tell, draw and write what all of them say.

    A learner that fails leaves the others alone, and the same call goes on with it.

    Raises:
        ValueError: no learner can learn from any of the logs, or as `engines.write`.
    """
    failed: dict[str, dict[str, str]] = {arena.name: {} for arena in asked.arenas}
    groups = {arena.name: list(_groups(asked, arena, failed[arena.name])) for arena in asked.arenas}
    if not any(groups.values()):
        reasons = "; ".join(f"{name} on {arena}: {why}" for arena, of in failed.items() for name, why in of.items())
        raise ValueError(f"there is nothing to compare: {reasons}")
    asked.folder.mkdir(parents=True, exist_ok=True)
    cells, ended = _held([cell for arena in asked.arenas for cell in _cells(asked, arena, groups[arena.name])], engine)
    scores: dict[str, dict[str, list[Score]]] = {arena.name: {} for arena in asked.arenas}
    logged: dict[str, Estimate] = {}
    cloned = set[tuple[str, int]]()  # logs and seeds whose behaviour cloning has its row
    for cell in cells:
        one, arena = ended[cell.member.name], cell.arena
        if one.failure is not None:
            _add(failed[arena.name], dict.fromkeys(cell.learners, f"{cell.member.name} {one.failure}"))
            continue
        without = left_out(one.answer, cell.learners)
        _add(failed[arena.name], {name: f"{cell.member.name}: {why}" for name, why in without.items()})
        logged[arena.name] = Estimate(**one.answer["logged_return"])
        first = (arena.name, cell.seed) not in cloned
        for name, score in scores_of(one.answer, cell.learners, arena, cell.seed, first):
            scores[arena.name].setdefault(name, []).append(score)
        cloned.add((arena.name, cell.seed))
    died = lost([ended[cell.member.name] for cell in cells])
    return told(asked, scores, logged, failed) | ({"error": complaint(died, len(cells))} if died else {})


def _add(known: dict[str, str], reasons: Mapping[str, str]) -> None:
    known |= {name: f"{known[name]}; {why}" if name in known else why for name, why in reasons.items()}


def _held(cells: Sequence[Cell], engine: Engine) -> tuple[list[Cell], dict[str, Ended]]:
    """All cells, and what became of their runs by name.

    Where several learners share a run that fails, each has a run of its own in its place: only the guilty one is lost.
    """
    ended = _made(cells, engine)
    failed = [cell for cell in cells if (one := ended[cell.member.name]).failure is not None and not one.stopped]
    apart = {cell.member.name: cell.apart for cell in failed if len(cell.learners) > 1}
    for name, singles in apart.items():
        tell(name, f"its learners have runs of their own: {', '.join(cell.member.name for cell in singles)}")
    if apart:
        ended |= _made([cell for singles in apart.values() for cell in singles], engine)
    return [one for cell in cells for one in apart.get(cell.member.name, [cell])], ended


def _made(cells: Sequence[Cell], engine: Engine) -> dict[str, Ended]:
    ended: dict[str, Ended] = {}
    write([(cell.member, cell.settings) for cell in cells])
    with closing(engine([cell.member for cell in cells])) as going:
        for one in going:
            ended[one.member.name] = one
            tell(one.member.name, one.failure or "done")
    return ended


def _cells(asked: Contest, arena: Arena, groups: Sequence[tuple[dict[str, Any], list[str]]]) -> Iterator[Cell]:
    for seed in asked.seeds:
        for number, (settings, learners) in enumerate(groups):
            own = {**sharing(settings, asked.folder), "seed": seed, "env": arena.env}
            cell = Cell.made(f"{arena.name}-{seed}-{number}", asked.folder, arena, learners, own)
            yield from cell.apart if cell.parted else [cell]


def _groups(asked: Contest, arena: Arena, failed: dict[str, str]) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Runs, as settings and the learners in each: those whose other settings are equal share one, and its simulators.

    No more of them than are to be together; a configuration with candidates of its own has a run of its own.
    """
    shared: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for name, path in asked.learners.items():
        settings = run_settings(path, arena, asked.more)
        if settings["candidates"] and (odd := [word for word in asked.more if REHEARSAL.match(word)]):
            raise ValueError(
                f"settings has {odd[0].removeprefix('--')}, and {path} has candidates with rehearsals of their own: set"
                " it there, in a copy of the configuration, or leave one of them out"
            )
        reason = unfit(settings, arena)
        if reason is not None:
            failed[name] = reason
            continue
        rest = {key: value for key, value in settings.items() if key not in OWN}
        if settings["candidates"]:
            yield settings, [name]
            continue
        _check_name(name, path)
        run, members = shared.setdefault(json.dumps(rest, sort_keys=True), ({**rest, "candidates": {}}, []))
        run["candidates"][name] = {"learner": settings["learner"], "rehearsal": settings["rehearsal"]}
        members.append(name)
    for run, members in shared.values():
        size = asked.together or len(members)
        for few in (members[k : k + size] for k in range(0, len(members), size)):
            yield {**run, "candidates": {name: run["candidates"][name] for name in few}}, few


def _check_name(name: str, path: Path) -> None:
    """Refuse a file whose name no candidate can have: every run would, after it has begun."""
    try:
        check_names([name])
    except ValueError as error:
        raise ValueError(f"learners has {path}, whose name is to be that of a candidate, and {error}") from error


def run_settings(path: Path, arena: Arena, more: Sequence[str]) -> dict[str, Any]:
    """The whole configuration of `mbrl run` with this file, as plain values."""
    from mbrl import parsing, stages, wording

    arguments = ["--config", str(path), "--data.id", arena.data_id, *more]
    parser = parsing.parser(stages.run, "run", None, arguments)
    try:
        parsed = parser.parse_args(arguments)
    except argparse.ArgumentError as error:
        told = wording.complaint(error, parser, arguments)
        raise ValueError(told if str(path) in told else f"a run of {path}: {told}") from error
    parser.instantiate(parsed)  # which refuses what no run could use
    dumped = parser.dump(parsed, skip_unset=False, skip_default=False)
    settings: dict[str, Any] = yaml.safe_load(dumped)
    if settings["seeds"] is not None or settings["env"] not in (None, arena.env):
        name = "env" if settings["seeds"] is None else "seeds"
        raise ValueError(
            f"{path} has {name} {settings[name]}, which every run is given here: take it out of the configuration, and"
            f" give --{name}"
        )
    if not settings["candidates"] and settings["learner"] is None:
        raise ValueError(f"{path} has neither a learner nor candidates: give it one of them")
    return {key: value for key, value in settings.items() if key not in ("config", "folder", "resolved")}


def sharing(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a run that shares its fits with the other runs of a folder, unless they say where."""
    fit = settings["fit"]
    return {**settings, "fit": {**fit, "shared": fit["shared"] or str(folder / "fits")}}


def unfit(settings: Mapping[str, Any], arena: Arena) -> str | None:
    """Why a learner cannot learn from this log, before any work; None if it can."""
    data = seen(minari.load(arena.data_id), settings["data"]["history"], seed=0)
    several = settings["candidates"] or {"": {"learner": settings["learner"]}}
    spec = data.spec(torch.arange(data.episodes))
    try:
        with seeded(0, "contest"):
            for candidate in several.values():
                build(candidate["learner"], Learner, spec)
    except ValueError as error:
        return str(error)
    return None
