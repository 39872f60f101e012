#!/usr/bin/env bash
# What is wanted of a machine with a GPU, in one call of under ten minutes:
#
#     bash benchmarks/gpu.sh FOLDER          # updates at 256x256, kernels, translation, memory
#     bash benchmarks/gpu.sh FOLDER rest     # float32, other sizes and batches
#
# Needs python3 (or PYTHON) with JAX for CUDA, Flax, Optax, Pillow and PyTorch. Results come into
# FOLDER as JSON, all that is printed as log.txt. What there is no time for is listed as such.
# DEVICE=cpu and SMALL="--width 1" try it where there is no GPU.
set -u
cd "$(dirname "$0")/.."
folder=${1:?usage: gpu.sh FOLDER [first|rest]}
part=${2:-first}
python=${PYTHON:-python3}
device=${DEVICE:-gpu}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# Programs that several of the calls below need are compiled once.
export JAX_COMPILATION_CACHE_DIR=$scratch/jax TORCHINDUCTOR_CACHE_DIR=$scratch/torch
export PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=2
status=0

# measure MINUTES NAME MODULE ARGUMENTS: for so long at most, and until nine minutes have passed;
# a compiler may take 45 seconds more.
measure() {
    local seconds=$((540 - SECONDS)) minutes
    minutes=$("$python" -c "print(round(max(0, min($1, $seconds / 60)), 2))")
    echo "== $2 (second $SECONDS, $minutes minutes)"
    "$python" -m "benchmarks.$3" --device "$device" --minutes "$minutes" \
        --json "$folder/$2.json" "${@:4}" ${SMALL:-} || status=1
}

# What is built in no time comes first in each call.
eager=torch_bfloat16,torch_bfloat16+channels_last,torch_tf32

first() {
    measure 3.3 updates_1 train_step --sizes 256 --batches 1 --profile "$scratch/traces" \
        --forms "$eager,ours_bfloat16,torch_compile,ours_bfloat16+steps8"
    measure 2.8 updates_16 train_step --sizes 256 --batches 16 --profile "$scratch/traces" \
        --forms "$eager,ours_bfloat16,torch_compile"
    measure 1.3 translations translate --sizes 256 --batches 1,16 \
        --forms ours_bfloat16,torch_bfloat16,torch_bfloat16+channels_last,torch_compile
    measure 9 memory train_step --memory --sizes 256 --batches 16 \
        --forms ours_bfloat16,torch_bfloat16,ours_bfloat16+remat,ours_bfloat16+micro4
    for trace in "$scratch"/traces/*_ours_bfloat16/plugins/profile/*/*.xplane.pb; do
        [ -e "$trace" ] || continue
        name=${trace#"$scratch/traces/"}
        gzip -c "$trace" >"$folder/${name%%_*}.xplane.pb.gz"
    done
}

rest() {
    measure 2 float32 train_step --sizes 256 --batches 1,16 \
        --forms torch_tf32,torch_float32,ours_float32
    measure 3 graphs train_step --sizes 256 --batches 1 \
        --forms ours_bfloat16,torch_bfloat16+graphs
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

case $part in first | rest) ;; *) echo "part $part: first or rest" >&2; exit 2 ;; esac
set -o pipefail
run 2>&1 | tee "$folder/log.txt"
