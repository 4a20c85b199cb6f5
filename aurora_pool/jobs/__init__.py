"""Jobs: a file of requests in, a file of records out, and nothing lost on the way."""

from aurora_pool.jobs.answers import Answer, read_answers
from aurora_pool.jobs.columns import Columns
from aurora_pool.jobs.frames import map_rows
from aurora_pool.jobs.guardrails import Guardrails, Price
from aurora_pool.jobs.job import Job, run_job
from aurora_pool.jobs.meter import Progress, Standstill
from aurora_pool.jobs.options import AgentTotals, JobOptions, JobSummary
from aurora_pool.jobs.validation import Expectation, fits_schema, is_json, matches

__all__ = [
    "AgentTotals",
    "Answer",
    "Columns",
    "Expectation",
    "Guardrails",
    "Job",
    "JobOptions",
    "JobSummary",
    "Price",
    "Progress",
    "Standstill",
    "fits_schema",
    "is_json",
    "map_rows",
    "matches",
    "read_answers",
    "run_job",
]
