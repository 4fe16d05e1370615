"""Models that leave PyTorch: the graph, its files, and whether they give the same results."""
