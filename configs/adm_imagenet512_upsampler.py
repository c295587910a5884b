"""ADM's upsampler on ImageNet, 128 → 512 (Dhariwal & Nichol 2021, table 6): FID 3.85 after a guided base (quoted).

    python -m vdm_jax.main --config=configs/adm_imagenet512_upsampler.py --workdir=runs/up512 --config.data.path=…

| stack | steps | FID | sFID | IS | precision | recall |
| --- | --- | --- | --- | --- | --- | --- |
| ADM-U: ADM at 128, this | 250 + 250 | 9.96 | 5.62 | 121.78 | .75 | .64 |
| ADM-G, ADM-U: the base guided by its classifier | 250 + 250 | 3.85 | 5.86 | 221.72 | .84 | .53 |
| `ddim25` of both | 25 + 25 | 5.96 | 12.10 | 187.87 | .81 | .54 |

Quoted. The model is that of `adm_imagenet256_upsampler.py`, which has the two commands of a cascade, conditioned on the
image at 128 × 128. Width 192, 2 blocks per resolution, 64 channels per head, attention at 32 and 16, batch 256,
1,050,000 steps, Adam 1e-4; 308,835,270 parameters. Published weights: 128_512_upsampler.pt. The classifier of the
guided rows was trained with batch 1024 and learning rate 6e-5 and is not published. Ours: none.
Cost: 14,924 GFLOP per image and step, 4.0e21 FLOP; at an assumed 300 TFLOP/s, 155 days of one accelerator.
Slices: not yet planned.

data.path is a folder with train/ and test/ of 512 × 512 images and a subfolder for each class. Variants: `ddim25`, and
`mini` as for 256 × 256.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.guidance import DDIM25, UPSAMPLER_MINI, adm_upsampler

VARIANTS = {"mini": UPSAMPLER_MINI, "ddim25": DDIM25}


def get_config(variant: str = "") -> ConfigDict:
    config = adm_upsampler("folder", 512, 128)
    config.model.attention_at = (32, 16)
    config.training.num_steps = 1_050_000
    return with_variant(config, variant, VARIANTS)
