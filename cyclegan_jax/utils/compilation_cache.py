"""A cache of compiled programs that outlives the process."""

import contextlib
import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import jax
import jaxlib.version

# Beyond it the programs that were not used for longest are deleted.
MAX_BYTES = 4 * 2**30


def keep_compiled_programs() -> None:
    """Keep compiled programs in the user's cache folder, where this process and later ones look.

    Must be called before anything is compiled. JAX's own settings take precedence:
    `JAX_COMPILATION_CACHE_DIR` names another folder, `JAX_ENABLE_COMPILATION_CACHE=false` keeps
    nothing. Nothing is kept either where the folder cannot be written.
    """
    settings: Any = jax.config  # its attributes are not declared
    if settings.jax_compilation_cache_dir or not settings.jax_enable_compilation_cache:
        return
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = base / "cyclegan_jax" / f"jaxlib-{jaxlib.version.__version__}-{_machine()}"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _machine() -> str:
    """Return a name of the processor's kind, as programs for CPUs use the instructions it has.

    JAX's keys contain versions and the kind of GPU, but not the kind of CPU.
    """
    wanted = ("model name", "flags", "Features")
    description = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        description += sorted({line for line in lines if line.startswith(wanted)})
    return hashlib.sha256("\n".join(description).encode()).hexdigest()[:12]
