"""The options of ``aurora-pool run``, a module for each group that ``--help`` shows."""
