"""The MLflow pages, served on loopback."""

from __future__ import annotations

import os
import subprocess
import sys


def serve(uri: str, port: int) -> int:
    """Run `mlflow ui` on 127.0.0.1 until Ctrl-C, with job execution off; its exit status.

    Raises:
        ValueError: the port is not one that a user may listen on.
    """
    if not 1 <= port <= 65535:
        raise ValueError(f"port is {port}, expected 1 to 65535")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    try:
        return subprocess.run([*command, "--port", str(port)], env=environment, check=False).returncode
    except KeyboardInterrupt:
        return 0
