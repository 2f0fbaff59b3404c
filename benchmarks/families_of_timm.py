"""A small member of each main family of timm's models, with random weights."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from architectures import Architecture, opened, random_images, randomised
from zennit.composites import EpsilonPlus
from zennit.core import Composite

from crp.composites import LanguageModel

CONVOLUTIONAL = {
    "test_resnet": 64, "test_efficientnet": 64, "test_byobnet": 64, "test_convnext": 64, "test_nfnet": 64,
    "test_mambaout": 64, "densenetblur121d": 64, "dla46_c": 64, "dpn48b": 64, "cs3darknet_focus_s": 64,
    "fasternet_t0": 64, "ghostnet_050": 64, "hgnetv2_b0": 64, "hrnet_w18_small": 64, "inception_next_atto": 64,
    "mobilenetv3_small_050": 64, "mobilenetv4_conv_small_035": 64, "regnetx_002": 64, "res2net50_14w_8s": 64,
    "resnest14d": 64, "resnetv2_18": 64, "resnetv2_50d_frn": 64, "rexnet_100": 64, "selecsls42": 64,
    "legacy_seresnet18": 64, "skresnet18": 64, "starnet_s050": 64, "ese_vovnet19b_slim_dw": 64, "repvgg_a0": 64,
    "halonet26t": 256, "eca_resnext26ts": 64, "resnet18d": 64, "convnextv2_atto": 64,
}
HYBRID = {
    "coat_lite_tiny": 64, "cpubone_nano": 64, "edgenext_xx_small": 64, "efficientformer_l1": 224,
    "efficientformerv2_s0": 64, "efficientvim_m1": 64, "efficientvit_b0": 64, "fastvit_t8": 64,
    "iformer_t": 64, "levit_128s": 224, "mobilevit_xxs": 64, "mobilevitv2_050": 64,
    "repvit_m0_9": 64, "shvit_s1": 64, "swiftformer_xs": 64, "vitamin_small_224": 64, "vit_tiny_r_s16_p8_224": 64,
    "poolformer_s12": 64, "caformer_s18": 64,
}
SHALLOW = {
    "hiera_tiny_224": (64, {"stages": (1, 1, 1, 1)}), "beit_base_patch16_224": (64, {"depth": 2}),
    "vit_base_patch16_siglip_224": (64, {"depth": 2}), "vit_base_patch16_clip_224": (64, {"depth": 2}),
    "samvit_base_patch16": (64, {"depth": 2, "global_attn_indexes": (1,)}), "qwen3_vit_88m": (64, {"depth": 2}),
    "naflexvit_base_patch16_gap": (64, {"depth": 2}), "sequencer2d_s": (64, {"layers": (1, 1, 1, 1)}),
}
"""Models with fewer layers than their name says."""
TRANSFORMERS = {
    "test_vit": 64, "test_vit2": 64, "test_vit_relpos": 64, "cait_xxs24_224": 64, "convit_tiny": 64,
    "crossvit_9_240": 240, "davit_tiny": 64, "deit3_small_patch16_224": 64, "eva02_tiny_patch14_224": 70,
    "vit_small_patch16_dinov3": 64, "vit_small_patch16_rope_224": 64, "flexivit_small": 64, "sam2_hiera_tiny": 64,
    "mixer_s32_224": 64, "resmlp_12_224": 64, "gmlp_ti16_224": 64, "mvitv2_tiny": 64, "nest_tiny": 64,
    "pit_ti_224": 64, "pvt_v2_b0": 64, "swin_tiny_patch4_window7_224": 64, "swinv2_tiny_window8_256": 64,
    "swinv2_cr_tiny_224": 64, "tiny_vit_5m_224": 224, "tnt_s_patch16_224": 64, "twins_pcpvt_small": 64,
    "xcit_nano_12_p16_224": 64,
}


def _classifier(name: str, size: int, composite: Composite, options: dict[str, Any]) -> Architecture:
    torch.manual_seed(0)
    try:
        model = timm.create_model(name, pretrained=False, num_classes=10, img_size=size, **options)
    except TypeError:  # of any size
        model = timm.create_model(name, pretrained=False, num_classes=10, **options)
    return Architecture(opened(randomised(model)), random_images(size, 1), composite)


FAMILIES: dict[str, Callable[[], Architecture]] = {
    **{name: partial(_classifier, name, size, EpsilonPlus(), {}) for name, size in (CONVOLUTIONAL | HYBRID).items()},
    **{name: partial(_classifier, name, size, LanguageModel(), {}) for name, size in TRANSFORMERS.items()},
    **{name: partial(_classifier, name, size, LanguageModel(), options) for name, (size, options) in SHALLOW.items()},
}
"""Name -> what builds it."""
