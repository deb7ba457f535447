"""Several `mbrl run`s at once as tasks of a Ray cluster, or of a small one that is made on this machine."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from mbrl.engines import Ended, Member, Run, run_member

PATIENCE = 5.0  # seconds until an address that does not answer counts as unreachable
JOINING = 60.0  # seconds until one that answers, and lets nobody join a cluster, counts as no Ray head
HEAD = "HOST:PORT of a Ray head, as in 10.0.0.1:6379; leave it out to use this machine"
TOKEN = "RAY_AUTH_TOKEN"  # the variable that a cluster which asks who joins is answered by
JOIN = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"


def on_ray(address: str | None, threads: int = 1) -> Run:
    """As tasks of a Ray cluster, each with as many cores as threads; without an address on this machine.

    A member that computes on CUDA has as many GPUs to itself as its fits have devices; one whose accelerator is `auto`
    does so where the cluster has any. All of a cluster's machines have to see the folder that the command is given in,
    the members' folders, MBRL_HOME and the data sets under the same paths, and have this package.

    Raises:
        ValueError: Ray is not installed, or no Ray head answers at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "engine is ray, which is not installed: pip install 'offline-mbrl[ray]', or engine processes"
        ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray's reports to its makers, which nobody asked for
    if address is not None:
        _reachable(address)

    def run(members: Sequence[Member], told: Mapping[str, str], workers: int) -> Generator[Ended]:
        own = {"address": "local", "num_cpus": workers * threads}  # another cluster may be known to this machine
        where = own if address is None else {"address": address}
        ray.init(**where, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            gpus = [gpus_of(member, threads, machines) for member in members]
            task = ray.remote(num_cpus=threads, max_retries=0)(_run_there)
            running = {
                task.options(num_gpus=count).remote(member, dict(told), Path.cwd()): member
                for member, count in zip(members, gpus, strict=True)
            }
            while running:
                (done,), _ = ray.wait(list(running))
                member = running.pop(done)
                try:
                    yield ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    yield Ended(member, {}, f"could not be begun on its machine: {error.cause}")
                except ray.exceptions.RayError as error:
                    yield Ended(member, {}, f"its Ray worker died: {str(error).splitlines()[0]}", stopped=True)
        finally:
            ray.shutdown()

    return run


def _run_there(member: Member, told: Mapping[str, str], folder: Path) -> Ended:
    """The member on another machine, by the Python there, in the folder that the command was given in."""
    if not folder.is_dir():
        raise FileNotFoundError(f"it does not see {folder}, the folder that the command was given in")
    return run_member(member._replace(command=(sys.executable, *member.command[1:])), told, folder=folder)


def gpus_of(member: Member, threads: int, machines: Sequence[Mapping[str, float]]) -> int:
    """How many a member needs.

    Raises:
        ValueError: no machine has as many, and as many cores, so that Ray would wait without an end.
    """
    settings = yaml.safe_load(member.path.read_text())
    there = any(machine.get("GPU", 0) for machine in machines)
    on_gpu = settings["accelerator"] == "cuda" or (settings["accelerator"] == "auto" and there)
    gpus: int = settings["fit"]["devices"] if on_gpu else 0
    if not any(machine.get("CPU", 0) >= threads and machine.get("GPU", 0) >= gpus for machine in machines):
        cores, cards = (int(max((machine.get(k, 0) for machine in machines), default=0)) for k in ("CPU", "GPU"))
        raise ValueError(
            f"{member.name} needs a machine with {threads} core(s) and {gpus} GPU(s), and those of the cluster have at"
            f" most {cores} and {cards}: lower --threads, or compute on the cpu"
        )
    return gpus


def _reachable(address: str) -> None:
    """Ask before Ray does, which tries for many minutes; and join the cluster for once, in a process that can end."""
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        if not parts.hostname or not parts.port:
            raise OSError("not HOST:PORT")
        socket.create_connection((parts.hostname, parts.port), PATIENCE).close()
    except (OSError, ValueError) as error:
        raise ValueError(f"ray_address is {address!r}, and nothing answers there ({error}): expected {HEAD}") from error
    try:
        subprocess.run(
            [sys.executable, "-c", JOIN, address], capture_output=True, text=True, timeout=JOINING, check=True
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"ray_address is {address!r}, and what answers there is no Ray head, or lets nobody join within"
            f" {JOINING:.0f} s: expected {HEAD}"
        ) from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["it died without a word"]
        asking = [line.strip() for line in lines if TOKEN in line]  # which Ray itself does not end on
        last = (asking or lines)[-1]
        raise ValueError(
            f"ray_address is {address!r}, and its cluster cannot be joined ({last}): expected {HEAD}"
        ) from error
