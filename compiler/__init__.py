"""Model files to quantised tensors, tiles and instructions: a Program."""
