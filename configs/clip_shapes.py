"""CLIP on `shapes`: pictures of one or two colored shapes with captions, which the package draws. No download.

    python -m vdm_jax.main --config=configs/clip_shapes.py --workdir=runs/clip_shapes

Not a result of a paper; small-scale. Ours, one run, seed 1, the averaged weights of step 600 (320,065 parameters, nine
minutes on two cores): recall@1 among 256 captions of distinct scenes, mean of eight draws of the 5,000 test pictures,
.991 ± .002 from images to captions and .989 ± .001 from captions to images. On pictures with combinations of shape and
color that training never shows (`held_out`): .938 ± .004 and .934 ± .006. It does not learn relations: it prefers a
caption to the one with the two objects exchanged for .535 ± .013 of 1,500 pictures, where chance is .5.

Variants: `held_out` evaluates pictures with combinations of shape and color that training never shows. `noised` trains
a CLIP that guides diffusions, and measures it by noise level. `smoke` runs for a minute.

Slices: not yet planned.
"""

from typing import Any

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.clip import NOISED, SMOKE, small_clip

VARIANTS: dict[str, dict[str, Any]] = {
    "smoke": SMOKE,
    "held_out": {"data.name": "shapes_held_out"},
    "noised": NOISED,
}


def get_config(variant: str = "") -> ConfigDict:
    return with_variant(small_clip("shapes", 32), variant, VARIANTS)
