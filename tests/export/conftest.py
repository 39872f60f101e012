"""The run whose generators are exported."""

import pytest

from tests.translators import save_run


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Return the work directory of a run with checkpoints 3 and 9."""
    workdir = tmp_path_factory.mktemp("run")
    save_run(workdir, (3, 9))
    return workdir
