#!/bin/bash
# Train on several nodes with SLURM, one task per GPU.
# Usage: sbatch examples/cluster/train.sh LABEL_MAPS RUN_FOLDER [OPTIONS OF synthsr train]
#SBATCH --job-name=synthsr
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail
labels=$1 run=$2
shift 2
resume=$([ ! -e "$run/config.yaml" ] || echo --resume) # after a time limit or a preemption
srun synthsr train all_purpose --labels "$labels" --out "$run" $resume \
    --num-nodes "$SLURM_JOB_NUM_NODES" --devices "$SLURM_NTASKS_PER_NODE" \
    --threads "$SLURM_CPUS_PER_TASK" "$@"
