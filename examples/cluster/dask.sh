#!/bin/bash
# Predict the scans of a folder with Dask: a scheduler and a worker per task, in one allocation.
# Scans go to whoever is free, and those of a worker that dies to the others.
# Usage: sbatch examples/cluster/dask.sh SCANS OUT [OPTIONS OF synthsr predict]
#SBATCH --job-name=synthsr
#SBATCH --ntasks=16
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=1G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=%x_%j.out
set -euo pipefail
scans=$1 out=$2
shift 2
file=$PWD/dask_$SLURM_JOB_ID.json # workers find the scheduler by it
trap 'kill $(jobs -p) 2>/dev/null || true; rm -f "$file"' EXIT
dask scheduler --scheduler-file "$file" --port 0 --dashboard-address :0 &
OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK srun dask worker --scheduler-file "$file" \
    --nthreads 1 --memory-limit 0 --no-dashboard --death-timeout 300 &
until [ -s "$file" ]; do sleep 1; done
synthsr predict "$scans" "$out" --resume --dask "$file" --log "${out%/}.log" "$@"
