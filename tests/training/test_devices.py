"""One device or several, one process or several: the same run."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests import smallest

ROOT = Path(__file__).parents[2]


def start(folder: Path, host_devices: int, *arguments: object) -> subprocess.Popen:
    """Starts `device_runs` with so many devices in its process."""
    count = f"--xla_force_host_platform_device_count={host_devices}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {count}"
    return subprocess.Popen(
        [sys.executable, "-m", "tests.device_runs", str(folder), *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    """Where one, two and four devices of one process left what they came to."""
    folder = tmp_path_factory.mktemp("devices")
    assert start(folder, 4).wait(timeout=300) == 0
    return folder


@pytest.fixture(scope="module")
def processes(devices):
    """The same folder after two processes of one device each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = [start(devices, 1, i, 2, port) for i in range(2)]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    return devices


def assert_same(folder: Path, one: str, other: str) -> None:
    """What two runs have come to agrees to 1e-9."""
    smallest.assert_agree(np.load(folder / f"{one}.npz"), np.load(folder / f"{other}.npz"))


@pytest.mark.parametrize("count", ["two", "four"])
def test_devices_equal_one(devices, count):
    """Two with two micro-batches each, and four with five updates at a time, do what one does."""
    assert_same(devices, "one", count)


@pytest.mark.parametrize("count", ["two", "four"])
def test_layers_on_devices_equal_one(devices, count):
    """Batch norm's statistics, gradients through them and dropout's masks are the whole batch's."""
    assert_same(devices, "layers_one", f"layers_{count}")


def test_images_on_all_devices_equal_single_ones(devices):
    """Ten images on four devices, and what they are brought back to, to the last bit."""
    made = np.load(devices / "images.npz")
    assert made["together"].std() > 5
    np.testing.assert_array_equal(made["together"], made["singly"])


def test_saved_on_two_devices_goes_on_on_one(devices):
    """The second half of the run is that of the run which was not stopped."""
    assert_same(devices, "one", "two_then_one")


@pytest.mark.parametrize("process", [0, 1])
def test_processes_equal_one(processes, process):
    """Two processes of one device each likewise; both hold the same state."""
    assert_same(processes, "one", f"process_{process}")


@pytest.mark.parametrize("process", [0, 1])
def test_saved_on_two_devices_goes_on_in_two_processes(processes, process):
    """Each process reads its state from what one process wrote."""
    assert_same(processes, "one", f"two_then_process_{process}")


def test_saved_by_two_processes_is_read_by_one(processes):
    """The checkpoint after five updates is that of one device."""
    from tests.device_runs import restored

    with jax.enable_x64(True):
        one, both = (restored(processes, name) for name in ("one", "processes"))
    smallest.assert_agree(smallest.arrays(one), smallest.arrays(both))
