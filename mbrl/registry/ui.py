"""The MLflow pages, served on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys

from mbrl.registry import store

HOST = "127.0.0.1"
PATIENCE = 3.0  # seconds that a server has to end by itself


def serve(port: int) -> str:
    """Run `mlflow ui` on 127.0.0.1 until Ctrl-C, with job execution off; the URI of the store that it showed.

    Raises:
        ValueError: the port cannot be listened on, or the runs are on a server, which has pages of its own.
        StoreError: the store cannot be used.
        RuntimeError: MLflow's server did not start, or ended by itself; it has printed why.
    """
    _check_port(port)
    uri = store.connect()
    if uri.startswith(("http://", "https://", "databricks")):
        where = store.shown(uri)
        raise ValueError(f"the runs are on the server {where} (MLFLOW_TRACKING_URI): open its own pages in a browser")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", HOST, "--port", str(port)]
    command += ["--workers", "1"]  # there is one reader, and each worker takes a quarter of a gigabyte
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    print(f"MLflow shows {store.shown(uri)} at http://{HOST}:{port} until Ctrl-C", flush=True)
    with subprocess.Popen(command, env=environment, stdout=2) as server:  # stdout belongs to results
        try:
            status = server.wait()
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(PATIENCE)  # a Ctrl-C reaches it too, and a second one would break off its goodbye
            if server.poll() is None:  # a signal to this process alone does not
                server.send_signal(signal.SIGINT)
            server.wait()
            return store.shown(uri)
    raise RuntimeError(f"`mlflow ui` ended with status {status}: see its output above")


def _check_port(port: int) -> None:
    if not 1 <= port <= 65535:
        raise ValueError(f"port is {port}, expected 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port that was just left is free
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ValueError(f"port {port} of {HOST} cannot be listened on ({error}): choose another --port") from error
