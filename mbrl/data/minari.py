"""Minari data sets <-> TransitionDataset. The only module that imports minari.

A data set is read episode by episode once and then from a flat cache beside it (`mbrl.data.cache`).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import minari
import numpy as np
import torch
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage
from minari.namespace import create_namespace, list_local_namespaces
from minari.storage import get_dataset_path

from mbrl import environments, files
from mbrl.data import cache, workspace
from mbrl.data.dataset import TransitionDataset
from mbrl.data.mapped import new_array
from mbrl.environments import Box, Discrete, Episode

_PART = r"[A-Za-z0-9_][A-Za-z0-9_-]*"
_ID = re.compile(rf"(?:(?P<namespace>{_PART}(?:/{_PART})*)/)?{_PART}-v(?:0|[1-9][0-9]*)")
_NAMES = "mbrl_channels"  # the metadata key of what the channels are called, and in which units
_INFOS = {  # what the infos may hold, by the field of a TransitionDataset
    "propensity": "log_propensity",  # the log density (Discrete: log probability) of each action
    "cost": "cost",  # what a step costs beside its reward, by the name that Safety-Gymnasium has for it
}
_ENV_ID = "mbrl_env_id"  # the metadata key of `module:EnvId`, which Minari's own env_spec cannot say
_TIME_LIMIT = "mbrl_time_limit"  # that of its max_episode_steps, as env_spec lacks some environments altogether


def check_id(id: str) -> str:
    """The namespace of a Minari id ("" without one); Minari itself makes folders before it finds an id malformed.

    Raises:
        ValueError: the id is not of the form NAMESPACE/NAME-vN.
    """
    match = _ID.fullmatch(id)
    namespace = (match["namespace"] or "") if match else ""
    if not match or len(namespace) == 1 or "data" in namespace.split("/"):
        raise ValueError(
            f"{id!r} is not a data set id: expected NAMESPACE/NAME-vN, e.g. plant/run1-v0, of letters, digits, _ "
            "and -; a namespace has two characters or more and no part of it is 'data'"
            + (f". A file becomes one by `mbrl import {id} --id NAMESPACE/NAME-vN`" if Path(id).is_file() else "")
        )
    return namespace


def exists(id: str) -> bool:
    """Whether the data set is on this machine.

    Raises:
        ValueError: the id is malformed.
    """
    check_id(id)
    return (get_dataset_path(id) / "data").is_dir()


def load(id: str, download: bool = False) -> TransitionDataset:
    """Load a Minari data set as flat tensors on the CPU, from its cache where that is still true of the source.

    Raises:
        ValueError: the id is malformed, or the data set holds images, actions of an unsupported kind, an empty
            episode, or numbers that are not finite.
        FileNotFoundError: the data set is not on this machine; the message has the command that fetches it.
        ConnectionError: `download` was asked for and failed.
        CorruptFileError: the cache or the Minari files are damaged; the message names the file.
    """
    present, folder = exists(id), get_dataset_path(id)
    if not present:
        if not download:
            raise FileNotFoundError(
                f"the data set {id!r} is not in {get_dataset_path()}. Fetch it with `minari download {id}` or "
                "`mbrl run --data.download true`, or make it with `mbrl import`"
            )
        _download(id, folder)
    source = files.sha256(folder / "data")
    data = cache.read(id, folder, source)
    if data is None:
        with cache.scratch(folder) as place:
            data = _from_episodes(id, folder, place)
            if cache.write(data, folder, source):
                return cache.read(id, folder, source) or data  # whose rows lie in files
    return data


def _download(id: str, folder: Path) -> None:
    existed = folder.exists()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            minari.download_dataset(id)
    except Exception as error:  # the hubs' clients share no base class, and Minari wraps none of theirs
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)  # half a data set would pass for a whole one
        hint = " (pip install 'offline-mbrl[hub]')" if isinstance(error, ImportError) else ""
        raise ConnectionError(
            f"the data set {id!r} could not be downloaded from {os.environ.get('MINARI_REMOTE') or 'Minari'}: "
            f"{type(error).__name__}: {error}{hint}. Where there is a network, run `minari download {id}`"
        ) from error


def _from_episodes(id: str, folder: Path, place: Path | None) -> TransitionDataset:
    try:
        source = minari.load_dataset(id)
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(id, folder, error) from error
    try:
        columns = _columns(id, source, place)
    except OSError as error:
        raise _damaged(id, folder, error) from error
    space = source.action_space
    names: dict[str, Any] = {}
    if isinstance(space, Discrete):  # a policy answers 0, 1, ...: which choices of the log these are, the names say
        low, high = [0.0] * int(space.n), [1.0] * int(space.n)
        names = {"action_channels": [f"action={k}" for k in range(int(space.start), int(space.start + space.n))]}
    else:
        low, high = space.low.ravel().tolist(), space.high.ravel().tolist()
    about, spec = source.storage.metadata, source.env_spec
    tensors: dict[str, Any] = {name: torch.from_numpy(column) for name, column in columns.items()}
    return TransitionDataset.create(
        id,
        **tensors,
        discrete=isinstance(space, Discrete),
        action_low=low,
        action_high=high,
        env_id=about.get(_ENV_ID) or (spec.id if spec else None),
        time_limit=about.get(_TIME_LIMIT) or (spec.max_episode_steps if spec else None),
        **names | about.get(_NAMES, {}),
    )


def _damaged(id: str, folder: Path, error: Exception) -> files.CorruptFileError:
    return files.CorruptFileError(
        f"{folder / 'data'} cannot be read: {error}. Delete {folder} and import or download {id} again"
    )


def _columns(id: str, source: minari.MinariDataset, place: Path | None) -> dict[str, np.ndarray]:
    """The flat arrays: the one place where episodes become rows. They lie in files in `place`, or else in memory."""
    flat_obs, flat_action = environments.flat_spaces(source.observation_space, source.action_space)
    width = int(flat_action.n) if isinstance(flat_action, Discrete) else flat_action.shape[0]
    n = int(source.total_steps)
    made = partial(new_array, place)
    obs, next_obs = (made(name, (n, flat_obs.shape[0]), np.float32) for name in ("obs", "next_obs"))
    action, reward = made("action", (n, width), np.float32), made("reward", (n,), np.float32)
    terminated, truncated = (made(name, (n,), np.bool_) for name in ("terminated", "truncated"))
    episode = made("episode", (n,), np.int64)
    more: dict[str, list[np.ndarray]] = {field: [] for field in _INFOS}
    row = 0
    for number, logged in enumerate(source.iterate_episodes()):
        steps = len(logged.rewards)
        if steps == 0:
            raise ValueError(f"{id}: episode {number} has no step")
        here = slice(row, row + steps)
        seen = environments.flatten(source.observation_space, logged.observations, steps + 1)
        obs[here], next_obs[here] = seen[:-1], seen[1:]
        action[here] = _flat_actions(id, number, flat_action, logged.actions, steps)
        reward[here], terminated[here], truncated[here] = logged.rewards, logged.terminations, logged.truncations
        truncated[row + steps - 1] |= not terminated[row + steps - 1]  # the log ends here, whatever the flags say
        episode[here] = number
        columns = {"observation": seen, "action": action[here], "reward": reward[here]}
        for field, key in _INFOS.items():
            found = _of_infos(id, number, key, logged.infos, steps, known=len(more[field]) == number)
            if found is not None:
                more[field].append(found)
                columns[key] = found
        for name, values in columns.items():
            if not np.isfinite(values).all():
                step = int(np.argwhere(~np.isfinite(values))[0][0])
                raise ValueError(f"{id}: the {name} of episode {number} is not finite at step {step}")
        row += steps
    return {
        "obs": obs,
        "action": action,
        "reward": reward,
        "next_obs": next_obs,
        "terminated": terminated,
        "truncated": truncated,
        "episode": episode,
        **{field: np.concatenate(parts) for field, parts in more.items() if parts},
    }


def _of_infos(id: str, number: int, key: str, infos: Any, steps: int, known: bool) -> np.ndarray | None:
    """What the infos say of an episode's steps, [T] float32; `known` is whether every episode before said it."""
    found = np.asarray(infos[key], np.float32) if infos and key in infos else None
    if number and (found is not None) != known:
        raise ValueError(f"{id}: some episodes have {key!r} in their infos and some have not, first {number}")
    if found is None:
        return None
    if found.shape not in ((steps,), (steps + 1,)):
        raise ValueError(f"{id}: {key!r} of episode {number} is {list(found.shape)}, expected [{steps}]")
    return found[-steps:]  # a collector's infos begin with that of the reset


def _flat_actions(id: str, number: int, space: Box | Discrete, actions: Any, steps: int) -> np.ndarray:
    if not isinstance(space, Discrete):
        return np.asarray(actions, np.float32).reshape(steps, -1)
    chosen = np.asarray(actions).reshape(steps) - space.start
    if chosen.min() < 0 or chosen.max() >= space.n:
        raise ValueError(f"{id}: episode {number} has an action outside of {space}")
    return np.eye(int(space.n), dtype=np.float32)[chosen]


def write(
    id: str,
    episodes: Iterable[Episode],
    observation_space: Box,
    action_space: Box | Discrete,
    *,
    env_id: str | None = None,
    description: str = "",
    algorithm: str = "",
    names: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write episodes, one at a time, as a Minari (hdf5) data set that appears whole or not at all.

    The files are made in a hidden folder beside the other data sets and renamed at the end, so a failed or killed
    import leaves nothing that Minari can see; the next one removes what a killed one left.

    Args:
        id: NAMESPACE/NAME-vN, not taken.
        episodes: flat observations [T + 1, O] and actions [T, A] or [T]; read once, never held together.
        observation_space: Box [O].
        action_space: Box [A] (infinite where nothing is declared) or Discrete.
        env_id: the environment that made the log, as in `mbrl.environments.make`; recorded with its MuJoCo version.
        description: free text for the metadata.
        algorithm: the behaviour policy's name for the metadata.
        names: `channels`, `units`, `action_channels` and `action_units` of the TransitionDataset to be loaded.

    Returns:
        the folder of the data set.

    Raises:
        ValueError: the id is malformed, there is no episode, or one does not fit the spaces.
        FileExistsError: the id is taken.
    """
    namespace = check_id(id)
    check_free(id)
    root = get_dataset_path()
    metadata: dict[str, Any] = {
        "dataset_id": id,
        "minari_version": importlib.metadata.version("minari"),
        **({"description": description} if description else {}),
        **({"algorithm_name": algorithm} if algorithm else {}),
        **({_NAMES: {key: list(values) for key, values in names.items()}} if names else {}),
    }
    spec = None
    if env_id is not None:
        env = environments.make(env_id)
        metadata |= {_ENV_ID: env_id, "requirements": environments.requirements(env)}
        if env.spec is not None and env.spec.max_episode_steps:
            metadata[_TIME_LIMIT] = env.spec.max_episode_steps
        spec = environments.portable_spec(env_id)
        env.close()
    with workspace.hidden(root) as work:
        made = work / "dataset" / "data"
        made.mkdir(parents=True)
        storage = MinariStorage.new(made, observation_space, action_space, spec, "hdf5")
        storage.update_metadata(metadata)
        storage.update_episodes(_buffers(id, episodes, observation_space, action_space))
        if storage.total_episodes == 0:
            raise ValueError(f"there is no episode to write to {id}")
        return _publish(id, namespace, root, made.parent)


def remove(id: str) -> None:
    """Delete a data set and its cache; an id that is not there is none."""
    check_id(id)
    shutil.rmtree(get_dataset_path(id), ignore_errors=True)


def check_free(id: str) -> None:
    """Refuse an id that is taken, or that lies inside another data set.

    Raises:
        FileExistsError: it is; Minari data sets are never overwritten.
    """
    folder = get_dataset_path(id)
    if folder.exists():
        raise FileExistsError(
            f"the id {id!r} exists ({folder}): choose another name or version, or run `minari delete {id}`"
        )
    for parent in folder.relative_to(get_dataset_path()).parents:
        if (get_dataset_path() / parent / "data").exists():
            raise FileExistsError(f"the id {id!r} lies inside the data set {str(parent)!r}: choose another namespace")


def _buffers(
    id: str, episodes: Iterable[Episode], observation_space: Box, action_space: Box | Discrete
) -> Iterator[EpisodeBuffer]:
    row = () if isinstance(action_space, Discrete) else action_space.shape
    for number, played in enumerate(episodes):
        steps = len(played.rewards)
        shapes = {
            "observations": (played.observations, (steps + 1, *observation_space.shape)),
            "actions": (played.actions, (steps, *row)),
            "terminations": (played.terminations, (steps,)),
            "truncations": (played.truncations, (steps,)),
        }
        for name, (values, shape) in shapes.items():
            if values.shape != shape or steps == 0:
                raise ValueError(
                    f"{id}: {name} of episode {number} are {list(values.shape)}, expected {list(shape)}"
                    + (" with at least one step" if steps == 0 else "")
                )
        infos = {_INFOS["propensity"]: played.log_propensities, _INFOS["cost"]: played.costs}
        yield EpisodeBuffer(
            observations=played.observations.astype(observation_space.dtype, copy=False),
            actions=played.actions.astype(action_space.dtype, copy=False),
            rewards=played.rewards,
            terminations=played.terminations.astype(bool, copy=False),
            truncations=played.truncations.astype(bool, copy=False),
            infos={key: values for key, values in infos.items() if values is not None} or None,
        )


def _publish(id: str, namespace: str, root: Path, made: Path) -> Path:
    for file in (made / "data").iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    folder = root / id
    with workspace.lock(root):
        check_free(id)  # again: another import may have been faster
        folder.parent.mkdir(parents=True, exist_ok=True)
        made.rename(folder)
        if namespace and namespace not in list_local_namespaces():
            create_namespace(namespace)
    return folder
