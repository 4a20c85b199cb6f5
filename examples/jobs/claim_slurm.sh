#!/bin/bash
# Four drivers that share one input; submit it again at any time, for more of them or to go on:
#   INPUT=prompts.jsonl ANSWERS=answers HOSTFILE=fleet.hostfile sbatch examples/jobs/claim_slurm.sh
# When one has ended with 0: aurora-pool merge answers -o answers.jsonl
#SBATCH --job-name=aurora-pool
#SBATCH --array=0-3
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --time=12:00:00

cd "${SLURM_SUBMIT_DIR:?}" || exit
exec aurora-pool run "${INPUT:?}" --claim "${ANSWERS:?}" --hostfile "${HOSTFILE:?}" --share auto --patience 1800
