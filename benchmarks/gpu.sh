#!/usr/bin/env bash
# Benchmarks on a machine with a GPU, in three calls of less than ten minutes each:
#
#     bash benchmarks/gpu.sh FOLDER          # updates at 256x256 of batch 1 and 16, and kernels
#     bash benchmarks/gpu.sh FOLDER second   # translation, memory, float32
#     bash benchmarks/gpu.sh FOLDER rest     # other sizes and batches
#
# Needs python3 (or PYTHON) with JAX for CUDA, Flax, Optax, Pillow and PyTorch. Results are written to
# FOLDER as JSON, and the output as log_PART.txt. Measurements without time are listed as such.
# Compiled programs are cached in CACHE for the next call. DEVICE=cpu and SMALL="--width 1" are for
# trials without a GPU.
set -u
cd "$(dirname "$0")/.."
folder=${1:?usage: gpu.sh FOLDER [first|second|rest]}
part=${2:-first}
python=${PYTHON:-python3}
device=${DEVICE:-gpu}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cache=${CACHE:-${TMPDIR:-/tmp}/cyclegan_jax_benchmarks}
export JAX_COMPILATION_CACHE_DIR=$cache/jax TORCHINDUCTOR_CACHE_DIR=$cache/torch
export PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=2
status=0

# measure MINUTES NAME MODULE ARGUMENTS: for at most MINUTES, until nine minutes have passed in all;
# compilation may take 45 seconds more.
measure() {
    local seconds=$((540 - SECONDS)) minutes
    minutes=$("$python" -c "print(round(max(0, min($1, $seconds / 60)), 2))")
    echo "== $2 (second $SECONDS, $minutes minutes)"
    "$python" -m "benchmarks.$3" --device "$device" --minutes "$minutes" \
        --json "$folder/$2.json" "${@:4}" ${SMALL:-} || status=1
}

# Forms that compile quickly come first in each call.
eager=torch_bfloat16,torch_bfloat16+channels_last,torch_tf32
# Our own kernels for norms, which a trial without a GPU cannot run.
triton=,ours_bfloat16+triton
[ "$device" = gpu ] || triton=

first() {
    measure 4.3 updates_1 train_step --sizes 256 --batches 1 --profile "$scratch/traces" \
        --forms "$eager,ours_bfloat16$triton,torch_compile,ours_bfloat16+steps8,torch_bfloat16+graphs"
    measure 9 updates_16 train_step --sizes 256 --batches 16 --profile "$scratch/traces" \
        --forms "$eager,ours_bfloat16$triton,torch_compile"
    for trace in "$scratch"/traces/*_ours_bfloat16/plugins/profile/*/*.xplane.pb; do
        [ -e "$trace" ] || continue
        name=${trace#"$scratch/traces/"}
        gzip -c "$trace" >"$folder/${name%%_*}.xplane.pb.gz"
    done
}

second() {
    measure 2 translations_1 translate --sizes 256 --batches 1 \
        --forms ours_bfloat16,torch_bfloat16,torch_bfloat16+channels_last,torch_compile
    measure 2 translations_16 translate --sizes 256 --batches 16 \
        --forms ours_bfloat16,torch_bfloat16,torch_bfloat16+channels_last,torch_compile
    measure 2.5 memory train_step --memory --sizes 256 --batches 16 \
        --forms ours_bfloat16,torch_bfloat16,ours_bfloat16+remat,ours_bfloat16+micro4
    measure 9 float32 train_step --sizes 256 --batches 1,16 \
        --forms torch_tf32,torch_float32,ours_float32
}

rest() {
    measure 9 grid train_step --sizes 512,128,256 --batches 1,8,4,16 \
        --forms torch_bfloat16,torch_bfloat16+channels_last,ours_bfloat16
}

run() {
    if command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=name,driver_version,clocks.sm,power.draw,temperature.gpu \
            --format=csv,noheader
    fi
    "$part"
    echo "== done in $SECONDS seconds"
    return $status
}

case $part in first | second | rest) ;; *) echo "part $part: first, second or rest" >&2; exit 2 ;; esac
set -o pipefail
run 2>&1 | tee "$folder/log_$part.txt"
