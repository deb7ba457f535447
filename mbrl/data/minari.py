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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import minari
import torch
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage
from minari.namespace import create_namespace, list_local_namespaces
from minari.storage import get_dataset_path

from mbrl import environments, files
from mbrl.data import cache, workspace
from mbrl.data.dataset import TransitionDataset
from mbrl.data.unrolled import INFOS, flat_columns
from mbrl.environments import Box, Discrete, Episode

_PART = r"[A-Za-z0-9_][A-Za-z0-9_-]*"
_ID = re.compile(rf"(?:(?P<namespace>{_PART}(?:/{_PART})*)/)?{_PART}-v(?:0|[1-9][0-9]*)")
_NAMES = "mbrl_channels"  # the metadata key of what the channels are called, and in which units
_ENV_ID = "mbrl_env_id"  # the metadata key of `module:EnvId`, which Minari's own env_spec cannot say
_SERIES = "mbrl_series"  # that of how many episodes each series was cut into
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


def home() -> Path:
    """Where data sets live: `MINARI_DATASETS_PATH`, by default ~/.minari/datasets, as an absolute path."""
    return get_dataset_path().absolute()


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
    space = source.action_space
    try:
        spaces = source.observation_space, space
        columns = flat_columns(id, source.iterate_episodes(), spaces, int(source.total_steps), place)
    except OSError as error:
        raise _damaged(id, folder, error) from error
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
        series=about.get(_SERIES, ()),
        **names | about.get(_NAMES, {}),
    )


def _damaged(id: str, folder: Path, error: Exception) -> files.CorruptFileError:
    return files.CorruptFileError(
        f"{folder / 'data'} cannot be read: {error}. Delete {folder} and import or download {id} again"
    )


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
    series: Callable[[], Sequence[int]] = tuple,
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
        series: asked when all episodes are read: the number of the series that each is a piece of, in a row; none where
            none is.

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
        if counts := [len(list(same)) for _, same in groupby(series())]:
            storage.update_metadata({_SERIES: counts})
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
        infos = {INFOS["propensity"]: played.log_propensities, INFOS["cost"]: played.costs}
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
