"""The CLIP of noised images that guides GLIDE (Nichol et al. 2021, arXiv:2112.10741), at 64 × 64 pixels.

    python -m vdm_jax.main --config=configs/clip_glide.py --workdir=runs/clip_glide --config.data.path=… \\
      --config.data.tokenizer_path=bpe_simple_vocab_16e6.txt.gz

The released one: a ViT of width 768, 12 blocks and patches of 4 pixels, whose class token is a row of a table of 1,000
noise levels, and a text tower of width 512 with a table of 65,536 rows for 49,408 tokens. Published weights: a folder
with image-enc.pt and text-enc.pt. Its training was not published: batch, rate and steps here are those of ViT-B/16 and
unverified, and so is its schedule, for which we take the linear one of GLIDE's upsampler. Ours: none.

Variants: `mini` is a small model of `shapes` for two CPU cores.

Slices: not yet planned.
"""

from ml_collections import ConfigDict

from vdm_jax.config import choose, with_variant
from vdm_jax.presets.clip import VIT_MINI, clip

VARIANTS = {"mini": {**VIT_MINI, "model.patch": 4, "schedule.num_timesteps": 1000}}


def get_config(variant: str = "") -> ConfigDict:
    noised = {"model.noised": True, "schedule.kind": "ddpm_linear", "schedule.num_timesteps": 1000}
    config = choose(clip("ViT-B/16", 5e-4), noised)
    config.data.shape = (64, 64, 3)
    config.model.patch = 4
    config.model.vocabulary = 65_536
    config.model.gelu = "erf"
    config.model.key_bias = False
    return with_variant(config, variant, VARIANTS)
