"""Where relevance goes in common architectures, without canonizers: a table of docs/any_model.md.

Weights are random (Kaiming), as are scale and statistics of batch norms; numbers are of float64.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torchvision
import transformers
from pages import write_table
from torch import nn
from zennit.composites import EpsilonPlus
from zennit.core import Composite

from crp.attribution import Audit, CondAttribution
from crp.composites import LanguageModel

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


def randomised(model: nn.Module, with_biases: bool = True) -> nn.Module:
    """A model in float64 whose biases, and what acts as such in batch norms, are random or zero."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(.5, 2)
            nn.init.uniform_(module.weight, .5, 1.5)
            module.running_mean.normal_(0, .1)
        for shift in (getattr(module, "bias", None), getattr(module, "running_mean", None)):
            if isinstance(shift, torch.Tensor):
                shift.data.normal_(0, .05 if with_biases else 0)
    return model.double().eval()


def torchvision_model(name: str, with_biases: bool = True) -> tuple[nn.Module, torch.Tensor, Composite]:
    """A model of torchvision's, two images and a composite."""
    options = {"init_weights": False} if name == "googlenet" else {}
    model = randomised(getattr(torchvision.models, name)(weights=None, **options), with_biases)
    size = {**CONVOLUTIONAL, **TRANSFORMERS_OF_IMAGES}[name]
    composite = EpsilonPlus() if name in CONVOLUTIONAL else LanguageModel()
    return model, torch.randn(2, 3, size, size, dtype=torch.double), composite


def hugging_face_model(name: str, attention: str) -> tuple[nn.Module, dict[str, torch.Tensor], Composite]:
    """A small model of Hugging Face's with one way to compute attention, two inputs and a composite."""
    torch.manual_seed(0)
    kind, config, options = HUGGING_FACE[name]
    model = randomised(kind(config(**options, attn_implementation=attention)))
    if name == "ViT":
        return model, {"pixel_values": torch.randn(2, 3, 32, 32, dtype=torch.double)}, LanguageModel()
    data = {"input_ids": torch.randint(100, (2, 7))}
    if name == "BERT":
        data["attention_mask"] = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    return model, data, LanguageModel()


def audit(model: nn.Module, data: Any, composite: Composite) -> Audit:
    """The audit of a model."""
    output = "logits" if type(model).__module__.startswith("transformers.") else None
    return CondAttribution(model, output=output).audit(data, composite)


def audits() -> Iterator[tuple[str, Audit]]:
    """Each architecture with its audit."""
    for name in (*CONVOLUTIONAL, *TRANSFORMERS_OF_IMAGES):
        yield f"torchvision `{name}`", audit(*torchvision_model(name))
    for name in HUGGING_FACE:
        for attention in ("eager", "sdpa"):
            yield f"transformers {name}, {attention}", audit(*hugging_face_model(name, attention))


def main() -> None:
    """Print the table and write it into the documentation."""
    sinks = {"biases": "biases", "parameters": "parameters as data", "softmax": "softmax", "empty": "empty sums",
             "stabilizers": "stabilizers"}
    lines = [f"| architecture | input | {' | '.join(sinks.values())} | together | operations |",
             "|" + " --- |" * (len(sinks) + 4)]
    for name, found in audits():
        amounts = " | ".join(f"{found.sinks[sink]:.3f}" for sink in sinks)
        lines.append(f"| {name} | {found.total:.3f} | {amounts} | {found.accounted:.5f} | {len(found.operations)} |")
        print(lines[-1], flush=True)
    write_table("any_model.md", "architectures", "\n".join(lines))


if __name__ == "__main__":
    main()
