#!/bin/bash
# A job of any length in PBS allocations of one hour, each of which hands over to the next:
#   qsub -v INPUT=prompts.jsonl,OUTPUT=answers.jsonl,HOSTFILE=fleet.hostfile examples/jobs/pbs.sh
#PBS -N aurora-pool
#PBS -l select=1
#PBS -l walltime=01:00:00
#PBS -j oe

cd "${PBS_O_WORKDIR:?}" || exit

# The end of the allocation is found by qstat. The servers may still be starting: wait for their hostfile and for them.
aurora-pool run "${INPUT:?}" -o "${OUTPUT:?}" --hostfile "${HOSTFILE:?}" --patience 1800
code=$?
script=${SCRIPT:-examples/jobs/pbs.sh}

# 75: out of time, all that is answered is saved. Only then is there a next allocation. A copy of this script that is
# kept elsewhere is named by SCRIPT.
if [ "$code" -eq 75 ]; then
    qsub -v "INPUT=$INPUT,OUTPUT=$OUTPUT,HOSTFILE=$HOSTFILE,SCRIPT=$script" "$script"
    exit
fi
exit "$code"
