"""Published checkpoints of the original code bases → our parameter trees, strict about every leaf."""
