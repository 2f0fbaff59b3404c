"""Models that people have, with random weights, and their audits without canonizers.

Weights are random (Kaiming), as are scale and statistics of batch norms; numbers are of float64. Families of models are
in ``families_of_torchvision.py``, ``families_of_timm.py`` and ``families_of_transformers.py``;
``architecture_tables.py`` writes their tables.
"""
from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torchvision
import transformers
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from zennit.composites import EpsilonPlus
from zennit.core import Composite

from crp.attribution import Audit, CondAttribution
from crp.composites import LanguageModel
from crp.model.layers import OutputChoice

CONVOLUTIONAL = {
    "resnet18": 64, "resnet50": 64, "densenet121": 64, "googlenet": 96, "efficientnet_b0": 96,
    "mobilenet_v3_small": 96, "convnext_tiny": 64,
}
TRANSFORMERS_OF_IMAGES = {"vit_b_16": 224, "swin_t": 64}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TOKENS = {"vocab_size": 100, "bos_token_id": None, "eos_token_id": None}
HUGGING_FACE = {
    "BERT": (transformers.BertForSequenceClassification, transformers.BertConfig, {**SMALL, "vocab_size": 100}),
    "GPT-2": (transformers.GPT2LMHeadModel, transformers.GPT2Config,
              {**TOKENS, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "Llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig, {**SMALL, **TOKENS, "num_key_value_heads": 2}),
    "Qwen3": (transformers.Qwen3ForCausalLM, transformers.Qwen3Config,
              {**SMALL, **TOKENS, "num_key_value_heads": 2, "head_dim": 8}),
    "ViT": (transformers.ViTForImageClassification, transformers.ViTConfig,
            {**SMALL, "image_size": 32, "patch_size": 8}),
}


class Architecture(NamedTuple):
    """A model, samples, a composite that suits it, and which of its outputs relevance starts from."""

    model: nn.Module
    data: Any
    composite: Composite
    output: OutputChoice = None


def randomised(model: nn.Module, with_biases: bool = True) -> nn.Module:
    """A model in float64 whose biases, and what acts as such in batch norms, are random or zero."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, (_ConvNd, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, _BatchNorm) and module.affine:
            module.running_var.uniform_(.5, 2)
            nn.init.uniform_(module.weight, .5, 1.5)
            module.running_mean.normal_(0, .1)
        for shift in (getattr(module, "bias", None), getattr(module, "running_mean", None)):
            if isinstance(shift, torch.Tensor) and shift.is_floating_point():
                shift.data.normal_(0, .05 if with_biases else 0)
    return model.double().eval()


def opened(model: nn.Module) -> nn.Module:
    """A model in which nothing is switched off: where parameters, such as gains of branches, are zero, random ones."""
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if parameter.numel() and parameter.detach().abs().max() <= 1e-3 and not name.endswith("bias"):
            parameter.data.uniform_(.1, .5)
    return model


def random_images(size: int, count: int = 2, frames: int = 0) -> torch.Tensor:
    """Images [count, 3, size, size], or videos [count, 3, frames, size, size]."""
    return torch.randn(count, 3, *([frames] if frames else []), size, size, dtype=torch.double)


def torchvision_model(name: str, with_biases: bool = True) -> tuple[nn.Module, torch.Tensor, Composite]:
    """A model of torchvision's, two images and a composite."""
    options = {"init_weights": False} if name == "googlenet" else {}
    model = randomised(getattr(torchvision.models, name)(weights=None, **options), with_biases)
    size = {**CONVOLUTIONAL, **TRANSFORMERS_OF_IMAGES}[name]
    composite = EpsilonPlus() if name in CONVOLUTIONAL else LanguageModel()
    return model, random_images(size), composite


def hugging_face_model(name: str, attention: str) -> tuple[nn.Module, dict[str, torch.Tensor], Composite]:
    """A small model of Hugging Face's with one way to compute attention, two inputs and a composite."""
    torch.manual_seed(0)
    kind, config, options = HUGGING_FACE[name]
    model = randomised(kind(config(**options, attn_implementation=attention)))
    if name == "ViT":
        return model, {"pixel_values": random_images(32)}, LanguageModel()
    data = {"input_ids": torch.randint(100, (2, 7))}
    if name == "BERT":
        data["attention_mask"] = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    return model, data, LanguageModel()


def audit(model: nn.Module, data: Any, composite: Composite, output: OutputChoice = None) -> Audit:
    """The audit of a model."""
    if output is None and type(model).__module__.startswith("transformers."):
        output = "logits"
    return CondAttribution(model, output=output).audit(data, composite)
