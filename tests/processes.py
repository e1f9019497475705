"""Programs in processes of their own, with as many simulated devices as a test needs."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent


def start(code: str, *arguments: object, devices: int | None = 8) -> subprocess.Popen[str]:
    """A Python program with that many devices on a CPU, or as many as it takes by itself."""
    flags = os.environ.get("XLA_FLAGS", "")
    if devices is not None:
        flags += f" --xla_force_host_platform_device_count={devices}"
    found = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    surroundings = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": found}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=TESTS, env={**os.environ, **surroundings}, **pipes)


def answer(process: subprocess.Popen[str]) -> Any:
    """Its last line, which is JSON."""
    told, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return json.loads(told.splitlines()[-1])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
