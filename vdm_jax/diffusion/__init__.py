"""The math of Gaussian diffusion in γ = −log SNR: arrays and pytrees in, arrays out."""
