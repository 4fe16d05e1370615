"""From ``cfg.MODEL`` to modules: builders by name, and what they refuse."""
