"""ADM's upsampler on ImageNet, 64 → 256 (Dhariwal & Nichol 2021, table 6): FID 3.94 after a guided base (quoted).

    python -m vdm_jax.main --config=configs/adm_imagenet256_upsampler.py --workdir=runs/up256 --config.data.path=…

| stack | FID | sFID | IS | precision | recall |
| --- | --- | --- | --- | --- | --- |
| ADM-U: ADM at 64, this | 7.49 | 5.13 | 127.49 | .72 | .63 |
| ADM-G, ADM-U: the base guided by its classifier | 3.94 | 6.14 | 215.84 | .83 | .53 |

Quoted; 250 steps each. The model is a DDPM of 256 × 256 images that is conditioned on the label and on the image at
64 × 64, which is enlarged and concatenated with z. In training, the small image is the area mean of the image. Width
192, 2 blocks per resolution, 4 heads, batch 256, 500,000 steps, Adam 1e-4; 311,795,910 parameters. Published weights:
64_256_upsampler.pt. `improved` is Improved DDPM's (T = 4000, Adam 3e-4; 279,792,390 parameters;
upsample_cond_500K.pt). Ours: none.
Cost: 3,738 GFLOP per image and step, 4.8e20 FLOP; at an assumed 300 TFLOP/s, 18 days of one accelerator.
Slices: not yet planned.

The cascade takes two commands. The second reads the images and labels of the first:

    python -m vdm_jax.main --mode=sample --workdir=runs/adm64
    python -m vdm_jax.main --mode=sample --workdir=runs/up256 --config.sampling.low_resolution=runs/adm64/samples/….npz

data.path is a folder with train/ and test/ of 256 × 256 images and a subfolder for each class. Variants: `improved`
`ddim25`, and `mini` for two CPU cores, from 4 × 4 to 8 × 8 on the digits of the package.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.guidance import DDIM25, UPSAMPLER_MINI, adm_upsampler

VARIANTS = {
    "improved": {
        "data.augment": (),
        "model.family": "improved",
        "model.attention_at": (16, 8),
        "schedule.num_timesteps": 4000,
        "training.vlb_weight": 1 / 4000,
        "optimizer.learning_rate": 3e-4,
    },
    "mini": UPSAMPLER_MINI,
    "ddim25": DDIM25,
}


def get_config(variant: str = "") -> ConfigDict:
    config = adm_upsampler("folder", 256, 64)
    config.model.heads = 4
    config.model.head_channels = 0
    config.training.num_steps = 500_000
    return with_variant(config, variant, VARIANTS)
