#!/bin/bash
# Make training pairs in the parts of an array; together they are those of one process.
# Usage: sbatch examples/cluster/generate.sh PRESET OUT NUMBER [OPTIONS OF synthsr generate]
#SBATCH --job-name=synthsr
#SBATCH --array=1-20
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=%x_%A_%a.out
set -euo pipefail
preset=$1 out=$2 number=$3
shift 3
parts=${PARTS:-$SLURM_ARRAY_TASK_COUNT} # set PARTS=20 to run some of 20 parts again
exec synthsr generate "$preset" --out "$out" -n "$number" \
    --shard "$SLURM_ARRAY_TASK_ID/$parts" --threads "$SLURM_CPUS_PER_TASK" --log "${out%/}.log" "$@"
