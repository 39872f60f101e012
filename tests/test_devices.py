"""One device or several, one process or several: the same run."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


def start(out: Path, host_devices: int, *arguments: object) -> subprocess.Popen:
    """Starts `device_runs` with so many devices in its process."""
    flags = f"--xla_force_host_platform_device_count={host_devices}"
    return subprocess.Popen(
        [sys.executable, "-m", "tests.device_runs", str(out), *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """What one device makes of batches of two."""
    out = tmp_path_factory.mktemp("devices") / "one.npz"
    assert start(out, 1).wait() == 0
    return np.load(out)


def assert_agree(one, other):
    """Losses of every update, parameters and pools agree to 1e-9."""
    assert int(one["devices"]) == 1
    assert int(other["devices"]) == 2
    for name in one.files:
        if name != "devices":
            np.testing.assert_allclose(other[name], one[name], rtol=1e-9, atol=1e-9)


def test_two_devices_equal_one(one_device, tmp_path):
    """Two devices with one pair each do what one does with two, batch norm and dropout included."""
    assert start(tmp_path / "two.npz", 2).wait() == 0
    assert_agree(one_device, np.load(tmp_path / "two.npz"))


def test_two_processes_equal_one(one_device, tmp_path):
    """Two processes of one device each likewise; both hold the same state."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [start(tmp_path / f"{i}.npz", 1, i, 2, port) for i in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    for i in range(2):
        assert_agree(one_device, np.load(tmp_path / f"{i}.npz"))
