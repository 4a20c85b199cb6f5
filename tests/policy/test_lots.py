"""Lots are a matter of cost only: a fleet does the same for prompts that are admitted as items."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from aurora_pool.policy.lots import Lot
from aurora_pool.policy.work import PromptQueue
from aurora_pool.testing.virtual import Hang, VirtualFleet, VirtualPrompt
from aurora_pool.testing.virtual_pool import VirtualPool
