"""Gaussian diffusions, parametrized by the choices that differ between papers.

`base` has the parts that all of them share, `continuous` the diffusions on a schedule γ(t), and `discrete` those on a
table of noise levels. They hold values and functions, which the modules of `methods/` read from a config.
"""
