"""What a configuration may hold, and how YAML and the command line become one."""
