#!/bin/bash
# A job of any length in Slurm allocations of one hour, each of which hands over to the next:
#   INPUT=prompts.jsonl OUTPUT=answers.jsonl HOSTFILE=fleet.hostfile sbatch examples/jobs/slurm.sh
#SBATCH --job-name=aurora-pool
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --time=01:00:00

cd "${SLURM_SUBMIT_DIR:?}" || exit

# The end of the allocation is SLURM_JOB_END_TIME. The servers may still be starting: wait for their hostfile and for them.
aurora-pool run "${INPUT:?}" -o "${OUTPUT:?}" --hostfile "${HOSTFILE:?}" --patience 1800
code=$?
script=${SCRIPT:-examples/jobs/slurm.sh}

# 75: out of time, all that is answered is saved. Only then is there a next allocation. A copy of this script that is
# kept elsewhere is named by SCRIPT.
if [ "$code" -eq 75 ]; then
    INPUT="$INPUT" OUTPUT="$OUTPUT" HOSTFILE="$HOSTFILE" SCRIPT="$script" sbatch "$script"
    exit
fi
exit "$code"
