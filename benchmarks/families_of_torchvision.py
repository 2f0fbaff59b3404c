"""A small member of each family of torchvision's models, with random weights."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchvision
from architectures import Architecture, opened, random_images, randomised
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.maxvit import MaxVit
from torchvision.models.video.mvit import MSBlockConfig, MViT
from zennit.composites import EpsilonPlus
from zennit.core import Composite

from crp.composites import LanguageModel

CLASSIFICATION = {
    "alexnet": 64, "vgg11_bn": 32, "squeezenet1_1": 64, "shufflenet_v2_x0_5": 64, "mnasnet0_5": 64, "mobilenet_v2": 64,
    "regnet_y_400mf": 64, "regnet_x_400mf": 64, "resnext50_32x4d": 64, "inception_v3": 96,
}
WITH_ATTENTION = {"swin_v2_t": 64, "vit_b_32": 64}
SEGMENTATION = {"fcn_resnet50": 32, "deeplabv3_mobilenet_v3_large": 64,
                "lraspp_mobilenet_v3_large": 64}
DETECTION = {"ssdlite320_mobilenet_v3_large": {"score_thresh": 0.},
             "fasterrcnn_mobilenet_v3_large_320_fpn": {"box_score_thresh": 0., "min_size": 96, "max_size": 96},
             "retinanet_resnet50_fpn": {"score_thresh": 0., "min_size": 96, "max_size": 96}}
CLASSIFIERS = {"ssdlite320_mobilenet_v3_large": "head", "retinanet_resnet50_fpn": "head",
               "fasterrcnn_mobilenet_v3_large_320_fpn": "roi_heads.box_predictor"}
VIDEO = {"r3d_18": (4, 32), "mc3_18": (4, 32), "r2plus1d_18": (4, 32), "s3d": (14, 64)}
VIDEO_WITH_ATTENTION = {"swin3d_t": (4, 64)}


class BestScores(nn.Module):
    """The scores of the best boxes of each image [B, K], by a detector of torchvision's; zero where there are fewer.

    Parameters
    ----------
    detector : torch.nn.Module
        Takes a list of images and gives for each a dict of boxes, labels and scores, the best first.
    count : int, default 5
        K.
    """

    def __init__(self, detector: nn.Module, count: int = 5):
        super().__init__()
        self.detector, self.count = detector, count

    def forward(self, images: Tensor) -> Tensor:
        """Scores of the best boxes."""
        scores = [found["scores"][:self.count] for found in self.detector(list(images))]
        return torch.stack([functional.pad(row, (0, self.count - len(row))) for row in scores])


class BestLogits(nn.Module):
    """The largest logits among the boxes of each image [B, K], where scores are a softmax of them.

    Parameters
    ----------
    detector : torch.nn.Module
        Takes a list of images.
    classifier : torch.nn.Module
        The part of it that gives logits of classes [..., C], the first of which is the background: in a dict as
        "cls_logits", or first in a tuple.
    count : int, default 5
        K.
    """

    def __init__(self, detector: nn.Module, classifier: nn.Module, count: int = 5):
        super().__init__()
        self.detector, self.classifier, self.count = detector, classifier, count

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the best boxes, image by image."""
        return torch.stack([self._of_one(image) for image in images])

    def _of_one(self, image: Tensor) -> Tensor:
        found: list[Any] = []
        handle = self.classifier.register_forward_hook(lambda module, args, output: found.append(output))
        self.detector([image])
        handle.remove()
        logits = found[0]["cls_logits"] if isinstance(found[0], dict) else found[0][0]
        best = logits.flatten(0, -2)[:, 1:].amax(1).sort(descending=True).values[:self.count]
        return functional.pad(best, (0, self.count - len(best)))


def _built(kind: Any, name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return opened(randomised(getattr(kind, name)(weights=None, **options)))


def _classifier(name: str, size: int, composite: Composite) -> Architecture:
    options = {"init_weights": False} if name == "inception_v3" else {}
    size_option = {"image_size": size} if name.startswith("vit") else {}
    return Architecture(_built(torchvision.models, name, **options, **size_option), random_images(size, 1), composite)


def _of_one_pixel(output: dict[str, Tensor]) -> Tensor:
    return output["out"][:, :, 0, 0]


def _segmenter(name: str, size: int) -> Architecture:
    model = _built(torchvision.models.segmentation, name, weights_backbone=None)
    return Architecture(model, random_images(size, 1), EpsilonPlus(), _of_one_pixel)


def _detector(name: str, options: dict[str, Any], classifier: str = "") -> Architecture:
    model = _built(torchvision.models.detection, name, weights_backbone=None, num_classes=5, **options)
    best = BestLogits(model, model.get_submodule(classifier)) if classifier else BestScores(model)
    return Architecture(best.eval(), random_images(96, 1), EpsilonPlus())


def _multiaxis(size: int) -> Architecture:
    """MaxViT with fewer blocks."""
    torch.manual_seed(0)
    model = MaxVit((size, size), stem_channels=16, partition_size=4, block_channels=[16, 32], block_layers=[1, 1],
                   head_dim=8, stochastic_depth_prob=0., num_classes=10)
    return Architecture(opened(randomised(model)), random_images(size, 1), EpsilonPlus())


def _multiscale(frames: int, size: int) -> Architecture:
    """MViT with fewer blocks, since the number of frames is part of it."""
    torch.manual_seed(0)
    settings = [
        MSBlockConfig(num_heads=heads, input_channels=channels, output_channels=out, kernel_q=[3, 3, 3],
                      kernel_kv=[3, 3, 3], stride_q=[1, stride, stride], stride_kv=[1, 2, 2])
        for heads, channels, out, stride in ((1, 16, 32, 1), (2, 32, 32, 2))
    ]
    model = MViT((size, size), frames, settings, residual_pool=True, residual_with_cls_embed=False,
                 rel_pos_embed=True, proj_after_attn=True, num_classes=10)
    return Architecture(opened(randomised(model)), random_images(size, 1, frames), LanguageModel())


def _video(name: str, frames: int, size: int, composite: Composite) -> Architecture:
    model = _built(torchvision.models.video, name)
    if name == "s3d":
        model.avgpool = nn.AdaptiveAvgPool3d(1)  # its own takes frames of 224 pixels
    return Architecture(model, random_images(size, 1, frames), composite)


FAMILIES: dict[str, Callable[[], Architecture]] = {
    **{name: partial(_classifier, name, size, EpsilonPlus()) for name, size in CLASSIFICATION.items()},
    **{name: partial(_classifier, name, size, LanguageModel()) for name, size in WITH_ATTENTION.items()},
    **{name: partial(_segmenter, name, size) for name, size in SEGMENTATION.items()},
    **{f"{name}, scores": partial(_detector, name, options) for name, options in DETECTION.items()},
    **{f"{name}, logits": partial(_detector, name, DETECTION[name], classifier)
       for name, classifier in CLASSIFIERS.items()},
    **{name: partial(_video, name, *sizes, EpsilonPlus()) for name, sizes in VIDEO.items()},
    **{name: partial(_video, name, *sizes, LanguageModel()) for name, sizes in VIDEO_WITH_ATTENTION.items()},
    "maxvit, two blocks": partial(_multiaxis, 32), "mvit, two blocks": partial(_multiscale, 4, 32),
}
"""Name -> what builds it."""
