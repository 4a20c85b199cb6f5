r"""The states of a batch, by the OpenAI Batch API's own names.

::

    validating -> in_progress -> finalizing -> completed
        |              |  \-> (the window ends) finalizing -> expired
        |              \----> cancelling -> cancelled
        \-> failed
"""

from __future__ import annotations

CHANGEABLE = ("validating", "in_progress")
"""Those in which it may be cancelled, paused or resumed."""
RUNNABLE = ("in_progress", "finalizing")
"""Those in which it is validated, and to be carried on."""
STARTED = (*RUNNABLE, "cancelling")
"""Those in which it is validated, and not ended."""
ACTIVE = ("validating", *STARTED)
ENDED = ("completed", "failed", "expired", "cancelled")
