"""Every decision of the pool, and nothing else: no asyncio, no clock, no global randomness.

Functions and small state machines over ``now`` (seconds of any clock) and a ``random.Random``. ``dispatch.Dispatcher``
is the one that the pool talks to; the other modules are what it decides with.
"""
