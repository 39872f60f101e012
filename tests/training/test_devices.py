"""Runs on several devices, in one process or several, equal a run on a single device."""

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
    """Start `device_runs` with `host_devices` devices in its process."""
    count = f"--xla_force_host_platform_device_count={host_devices}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {count}"
    return subprocess.Popen(
        [sys.executable, "-m", "tests.device_runs", str(folder), *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    """The folder with the results of one process with four devices."""
    folder = tmp_path_factory.mktemp("devices")
    assert start(folder, 4).wait(timeout=300) == 0
    return folder


@pytest.fixture(scope="module")
def processes(devices):
    """The same folder, with the results of two processes of one device each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = [start(devices, 1, i, 2, port) for i in range(2)]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    return devices


def assert_agree(folder: Path, actual: str, expected: str) -> None:
    """Assert that the results of two runs agree to 1e-9."""
    smallest.assert_agree(np.load(folder / f"{actual}.npz"), np.load(folder / f"{expected}.npz"))


@pytest.mark.smoke
def test_devices_equal_one(devices):
    """Two devices, with micro-batches and five updates per dispatch, agree with one.

    So do dropout masks and a loss with frozen parameters.
    """
    assert_agree(devices, "two", "one")


def test_form_of_gpus_equals_that_of_cpus(devices):
    """Two devices that compute in the GPU's form, in batches, agree with one in the CPU's."""
    assert_agree(devices, "direct", "one")


@pytest.mark.parametrize("count", ["two", "four"])
def test_layers_on_devices_equal_one(devices, count):
    """Batch norm, with its gradients, and dropout are those of the whole batch."""
    assert_agree(devices, f"layers_{count}", "layers_one")


def test_images_on_all_devices_equal_single_images(devices):
    """Ten images translated on four devices, and their round trips, agree to the last bit."""
    results = np.load(devices / "images.npz")
    assert results["together"].std() > 5
    np.testing.assert_array_equal(results["together"], results["singly"])


def test_saved_on_two_devices_resumes_on_one(devices):
    """The second half of the run is that of the uninterrupted run."""
    assert_agree(devices, "two_then_one", "one")


@pytest.mark.parametrize("process", [0, 1])
def test_processes_equal_one(processes, process):
    """Two processes of one device each agree with one, and hold the same state.

    They do so too from the state that a single process saved.
    """
    assert_agree(processes, f"process_{process}", "one")
    assert_agree(processes, f"two_then_process_{process}", "one")


def test_the_first_process_decides_the_initial_state(processes):
    """Also where another process has computed a different one, here from another seed."""
    first, second = (np.load(processes / f"first_{process}.npz") for process in (0, 1))
    with jax.enable_x64(True):
        expected = smallest.arrays(smallest.start_state(smallest.get_config(seed=0)))
    for name, values in expected.items():
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_allclose(first[name], values, rtol=1e-12, atol=1e-12)


def test_saved_by_two_processes_is_restored_by_one(processes):
    """The checkpoint after five updates is that of a single device."""
    from tests.device_runs import restored

    with jax.enable_x64(True):
        one, both = (restored(processes, name) for name in ("one", "processes"))
    smallest.assert_agree(smallest.arrays(both), smallest.arrays(one))
