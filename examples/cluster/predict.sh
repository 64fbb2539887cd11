#!/bin/bash
# Predict the scans of a folder, a list or (with --bids) a dataset in the parts of an array.
# Usage: sbatch examples/cluster/predict.sh SCANS OUT [OPTIONS OF synthsr predict]
# A task that is preempted or killed goes on when it is started again. Scans that failed:
#   sbatch examples/cluster/predict.sh SCANS OUT --only-failed OUT/summary.tsv
#SBATCH --job-name=synthsr
#SBATCH --array=1-20
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=%x_%A_%a.out
set -euo pipefail
scans=$1 out=$2
shift 2
parts=${PARTS:-$SLURM_ARRAY_TASK_COUNT} # set PARTS=20 to run some of 20 parts again
exec synthsr predict "$scans" "$out" --resume --shard "$SLURM_ARRAY_TASK_ID/$parts" \
    --threads "$SLURM_CPUS_PER_TASK" --log "${out%/}.log" "$@"
