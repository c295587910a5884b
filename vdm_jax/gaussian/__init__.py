"""A Gaussian diffusion, once: data → noise → prediction → bound, flow and samples, as choices that a paper makes.

`base` has what all of them share, `continuous` those on a γ(t), `discrete` those on a table of levels. They hold values
and functions; a page in `methods/` reads them from a config.
"""
