"""The modules of the paper with plain constructors. Needs torch only."""
