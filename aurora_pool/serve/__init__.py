"""One URL for a whole fleet, and the OpenAI Batch API over it: what ``aurora-pool serve`` runs.

The online endpoints hand requests to the pool's dispatcher and replies back unchanged. A batch is a row in a database,
an input file and a journal: :mod:`aurora_pool.jobs` runs it, and the journal is the truth whatever is killed.
"""

from aurora_pool.serve.options import ServerOptions, UserLimits
from aurora_pool.serve.server import Server, serving

__all__ = ["Server", "ServerOptions", "UserLimits", "serving"]
