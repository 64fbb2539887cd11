#!/bin/bash
# Train on several machines without a scheduler. Run this on each of them, with a folder that all see.
# Usage: NODES=2 NODE_RANK=0 MASTER_ADDR=first.machine GPUS=4 \
#            examples/recipes/train_torchrun.sh LABEL_MAPS RUN_FOLDER [OPTIONS OF synthsr train]
set -euo pipefail
labels=$1 run=$2
shift 2
torchrun --nnodes "$NODES" --node-rank "$NODE_RANK" --nproc-per-node "$GPUS" \
    --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}" --no-python \
    synthsr train all_purpose --labels "$labels" --out "$run" \
    --num-nodes "$NODES" --devices "$GPUS" "$@"
