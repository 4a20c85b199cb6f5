"""How a prompt becomes a work item: template, length, tokens, and the plan of one call."""
