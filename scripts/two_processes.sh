#!/bin/sh
# Train with two processes on this machine, as two machines would. Arguments are those of main.py:
#
#   scripts/two_processes.sh --config configs/quickstart.py --workdir runs/two --config.batch_size=2
#
# Each process reads half of every batch. The environment may set PORT, PYTHON and JAX_PLATFORMS.
# A signal to this script or to either process makes both save and stop.
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
[ -z "$PYTHON" ] && [ -x .venv/bin/python ] && python=.venv/bin/python
port=${PORT:-$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')}
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"

for id in 0 1; do
    "$python" main.py --coordinator="127.0.0.1:$port" --num_processes=2 --process_id="$id" "$@" &
    eval "process_$id=$!"
done
trap 'kill -TERM "$process_0" "$process_1" 2>/dev/null' TERM INT HUP

# A signal interrupts wait: wait again until the process has ended.
code=0
for process in "$process_0" "$process_1"; do
    wait "$process"
    ended=$?
    while kill -0 "$process" 2>/dev/null; do
        wait "$process"
        ended=$?
    done
    [ "$ended" -gt "$code" ] && code=$ended
done
exit "$code"
