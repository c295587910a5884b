"""The cost of training and sampling on this machine, in one process, with warm-up and repeats.

    python -m experiments.benchmarks --mini --seeds=1

Two alternatives are measured in alternation and compared by the median ratio of pairs, which is robust to
drift of the machine's speed. Absolute times do not transfer to other machines.
"""
