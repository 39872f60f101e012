"""Compiled programs are kept in the user's cache folder, unless JAX is told otherwise."""

import jax
import pytest

from cyclegan_jax.utils.compilation_cache import keep_compiled_programs

NAMES = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def unset(monkeypatch, tmp_path):
    """JAX's settings as a user has them, whose cache folder is `tmp_path`."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_a_folder_for_this_machine_and_version(tmp_path):
    """It is the same each time, and its size is limited."""
    keep_compiled_programs()
    folder = jax.config.jax_compilation_cache_dir
    assert folder.startswith(f"{tmp_path}/cyclegan_jax/jaxlib-{jax.lib.__version__}-")
    assert jax.config.jax_compilation_cache_max_size > 0
    jax.config.update("jax_compilation_cache_dir", None)
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == folder


def test_settings_of_jax_take_precedence(tmp_path):
    """A folder that was chosen is kept, and where nothing shall be kept nothing is created."""
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == "elsewhere"
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_created(tmp_path):
    """The program works without."""
    (tmp_path / "cyclegan_jax").touch()
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None
