"""What the scripts share: arguments of command lines, and modules that a user names."""
