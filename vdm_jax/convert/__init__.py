"""Convert published checkpoints of the original code bases to our parameter trees, checking every leaf."""
