#!/bin/bash
# Four drivers that share one input; submit it again at any time, for more of them or to go on:
#   qsub -v INPUT=prompts.jsonl,ANSWERS=answers,HOSTFILE=fleet.hostfile examples/jobs/claim_pbs.sh
# When one has ended with 0: aurora-pool merge answers -o answers.jsonl
#PBS -N aurora-pool
#PBS -J 0-3
#PBS -l select=1:ncpus=4
#PBS -l walltime=12:00:00
#PBS -j oe

cd "${PBS_O_WORKDIR:?}" || exit
share="${PBS_ARRAY_INDEX:?}/4"
exec aurora-pool run "${INPUT:?}" --claim "${ANSWERS:?}" --hostfile "${HOSTFILE:?}" --share "$share" --patience 1800
