"""CLIP on `emoji`: 3,655 pictures of the Noto color font with their names, split by base emoji.

    apt install fonts-noto-color-emoji
    python -m vdm_jax.main --config=configs/clip_emoji.py --workdir=runs/clip_emoji

Not a result of a paper; small-scale, at 32 × 32 pixels. Ours: not yet measured.

Variants: `noised` trains a CLIP that guides diffusions. `smoke` runs for a minute.

Slices: not yet planned.
"""

from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.clip import NOISED, SMOKE, small_clip

VARIANTS: dict[str, dict[str, Any]] = {"smoke": SMOKE, "noised": NOISED}


def get_config(variant: str = "") -> ConfigDict:
    config = small_clip("emoji", 32)
    config.model.vocabulary = 1024
    config.model.context = 32
    config.evaluation.candidates = 0
    return with_variant(config, variant, VARIANTS)
