"""Several processes on one fleet: who is alive, who works with which agents."""

from aurora_pool.sharing.agents import AgentShare
from aurora_pool.sharing.ranks import Part, find_rank, parse_part
from aurora_pool.sharing.roster import Roster

__all__ = ["AgentShare", "Part", "Roster", "find_rank", "parse_part"]
