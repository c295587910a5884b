"""CLIP ViT-L/14@336px (Radford et al. 2021): zero-shot top-1 on ImageNet 76.2 % (quoted, unverified).

    python -m vdm_jax.main --config=configs/clip_vit_l14_336.py --workdir=runs/clip_vit_l14_336 --config.data.path=… \
      --config.data.tokenizer_path=bpe_simple_vocab_16e6.txt.gz

427,944,193 parameters, counted against the original module. Batch 32,768, 32 epochs of 400 million pairs, Adam 2e-5
(tables 18 to 20 of the paper, by recall: unverified). Published weights: ViT-L-14-336px.pt of OpenAI, and the same
tower of open_clip and Hugging Face as safetensors. Ours: none.

It is ViT-L/14 trained for one more epoch at 336 pixels. Starting from clip_vit_l14 needs its positions resized (not
built yet). Published weights load directly.

The data is a folder, shards or an `.npz` of images with captions (`captions`). `--mode=eval
--weights=ViT-L-14-336px.pt` measures retrieval on it; with `--config.evaluation.task=zero_shot
--config.evaluation.prompts=prompts.json` and a labeled data set, zero-shot accuracy. Variants: `mini` is a small model
of `shapes` for two CPU cores.

Slices: not yet planned.
"""

from ml_collections import ConfigDict

from vdm_jax.config import with_variant
from vdm_jax.presets.clip import EXAMPLES, VIT_MINI, clip

VARIANTS = {"mini": VIT_MINI}


def get_config(variant: str = "") -> ConfigDict:
    config = clip("ViT-L/14@336px", 2e-5)
    config.training.num_steps = EXAMPLES // 32 // config.data.batch_size
    return with_variant(config, variant, VARIANTS)
