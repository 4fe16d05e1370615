"""The original's paths of the lists of classes; importing one registers the data sets."""
