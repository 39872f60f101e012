"""A checkpoint of two processes that the first cannot write: arguments WORKDIR PROCESS PORT."""

import resource
import sys
from pathlib import Path

from cyclegan_jax import distributed
from cyclegan_jax.checkpoint import Checkpoints
from cyclegan_jax.utils.errors import UserError
from tests import short
from tests.smallest import SIZE
from tests.states import start_state

if __name__ == "__main__":
    process = int(sys.argv[2])
    distributed.join_processes(f"127.0.0.1:{sys.argv[3]}", 2, process)
    config = short.get_config()
    checkpoints = Checkpoints(Path(sys.argv[1]), config.to_dict())
    state = start_state(config, SIZE)
    if process == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        checkpoints.save(state)
        checkpoints.wait()
    except UserError as error:
        distributed.leave(f"error: {error}")
