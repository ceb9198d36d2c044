#!/bin/bash
# Pack a family with an array of jobs; the store has the bytes of one machine's.
#   sbatch --parsable slurm.sh        prints JOB
#   sbatch --dependency=afterok:JOB --wrap "taskstore seal $STORE"
#SBATCH --job-name=taskstore-pack
#SBATCH --array=1-16
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail

STORE=${STORE:-/shared/family}
BASE=${BASE:-/shared/llama}
TASKS=${TASKS:-billing=/shared/runs/17 legal=/shared/runs/22}

# A job that is queued again goes on where it was.
# shellcheck disable=SC2086
exec taskstore pack "$BASE" $TASKS \
    --part "$SLURM_ARRAY_TASK_ID/16" --to "$STORE" --jobs "$SLURM_CPUS_PER_TASK"
