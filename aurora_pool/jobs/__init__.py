"""Jobs: a file of requests in, a file of records out, and nothing lost on the way."""

from aurora_pool.jobs.answers import Answer, read_answers
from aurora_pool.jobs.frames import map_rows
from aurora_pool.jobs.meter import Progress, Stall
from aurora_pool.jobs.options import AgentShare, JobOptions, JobSummary
from aurora_pool.jobs.runner import Job, run_job

__all__ = [
    "AgentShare",
    "Answer",
    "Job",
    "JobOptions",
    "JobSummary",
    "Progress",
    "Stall",
    "map_rows",
    "read_answers",
    "run_job",
]
