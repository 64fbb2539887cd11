#!/bin/bash
# Predict a BIDS dataset, a participant per task of an array.
# Usage: sbatch --array=1-$(ls -d DATASET/sub-* | wc -l) examples/cluster/bids.sh DATASET OUT [OPTIONS]
# In a container, put `apptainer run --bind DATASET,OUT synthsr.sif` for `synthsr-bids`.
#SBATCH --job-name=synthsr
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=01:00:00
#SBATCH --requeue
#SBATCH --output=%x_%A_%a.out
set -euo pipefail
dataset=$1 out=$2
shift 2
participants=("$dataset"/sub-*/)
label=$(basename "${participants[SLURM_ARRAY_TASK_ID - 1]}")
exec synthsr-bids "$dataset" "$out" participant --participant-label "$label" \
    --n-cpus "$SLURM_CPUS_PER_TASK" -w "${TMPDIR:-/tmp}/synthsr_$SLURM_JOB_ID" "$@"
