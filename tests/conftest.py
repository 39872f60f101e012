"""Set-up of all tests; compiled programs are cached between sessions."""

import contextlib
import os
import tempfile
from pathlib import Path

import jaxlib.version

# Before JAX is imported; the tests' subprocesses inherit these.
CACHE = Path(tempfile.gettempdir()) / "cyclegan_jax_test_cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
# Compilation takes most of the tests' time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# An unknown flag would abort the process, and jaxlib 0.11 no longer knows the first. Without
# optimisations XLA's older emitter of loops compiles in half the time, and with two workers on two
# cores it does so best in one piece.
if jaxlib.version.__version_info__ < (0, 11):
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Before TensorFlow, for the reason in cyclegan_jax/utils/tensorflow.py.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

import pytest  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from cyclegan_jax.inference.translator import Translator  # noqa: E402
from tests import tiny  # noqa: E402
from tests.translators import scaled_translator  # noqa: E402


@pytest.fixture
def config() -> ConfigDict:
    """A tiny configuration, which the test may change."""
    return tiny.get_config()


# The slowest modules start first, so that two workers end at about the same time.
SLOW = (
    "test_recipe_training.py",
    "test_resume.py",
    "test_recipes.py",
    "test_parity.py",
    "test_devices.py",
    "test_work_directories.py",
    "test_mistakes.py",
    "test_import_export.py",
    "test_step.py",
    "test_processes.py",
    "test_benchmark_step.py",
    "test_agreement.py",
    "test_prefetch.py",
    "test_accumulation.py",
    "test_app.py",
    "test_gallery.py",
    "test_benchmark_grid.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort slow modules first."""
    items.sort(key=lambda item: SLOW.index(item.path.name) if item.path.name in SLOW else len(SLOW))


@pytest.fixture
def negatives(monkeypatch):
    """Replace every work directory's model by one that makes negatives; list what was loaded."""
    loaded = []

    def load(workdir, direction="a_to_b", checkpoint="latest", *, batch_size=1, tile=None):
        loaded.append({"direction": direction, "checkpoint": checkpoint, "tile": tile})
        return scaled_translator(batch_size=batch_size)

    monkeypatch.setattr(Translator, "load", load)
    return loaded
