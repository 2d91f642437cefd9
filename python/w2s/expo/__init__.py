"""ExPO: weights extrapolated from a pair of checkpoints (arXiv 2404.16792), tensor by tensor."""
