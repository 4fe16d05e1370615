"""From a folder of files to the description of a data set and a configuration to train on it."""
