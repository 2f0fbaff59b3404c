"""Small models that LXT supports, the same wherever they are built: their weights are a formula and their names."""
from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models.vision_transformer import VisionTransformer

SIZE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
TOKENS = {"vocab_size": 30, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
GROUPED = {**SIZE, **TOKENS, "num_key_value_heads": 2}
IDS = torch.tensor([[5, 17, 2, 23, 11, 8]])
IMAGE = torch.cos(1.3 * torch.arange(3 * 12 * 12, dtype=torch.double) ** 2).reshape(1, 3, 12, 12)

OF_TRANSFORMERS = {
    "BERT": (transformers.BertForSequenceClassification, transformers.BertConfig,
             {**SIZE, "vocab_size": 30, "max_position_embeddings": 8, "num_labels": 3}),
    "GPT-2": (transformers.GPT2LMHeadModel, transformers.GPT2Config,
              {**TOKENS, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 8}),
    "Gemma 3": (transformers.Gemma3ForCausalLM, transformers.Gemma3TextConfig,
                {**GROUPED, "head_dim": 8, "sliding_window": 3, "query_pre_attn_scalar": 8, "sliding_window_pattern": 2,
                 "layer_types": ["sliding_attention", "full_attention"]}),
    "Llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig, GROUPED),
    "Qwen2": (transformers.Qwen2ForCausalLM, transformers.Qwen2Config, GROUPED),
    "Qwen3": (transformers.Qwen3ForCausalLM, transformers.Qwen3Config, {**GROUPED, "head_dim": 8}),
    "ViT": (transformers.ViTForImageClassification, transformers.ViTConfig,
            {**SIZE, "image_size": 12, "patch_size": 4, "num_labels": 3}),
}
MODES = {
    **dict.fromkeys(["GPT-2", "Gemma 3", "Llama", "Qwen2", "Qwen3"], ("attnlrp", "cp-lrp-gates")),
    **dict.fromkeys(["BERT", "ViT"], ("attnlrp",)),
    "torchvision ViT": ("cp-lrp",),
}
"""The architectures, with the values of ``functional`` that stand for what LXT has for them."""
NAMES_OF_BEFORE = {
    "vit.layers.": "vit.encoder.layer.", "attention.q_proj": "attention.attention.query", "mlp.fc2": "output.dense",
    "attention.k_proj": "attention.attention.key", "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense", "mlp.fc1": "intermediate.dense",
}
"""Parts of names in the ViT of transformers 5, with those in the version that LXT knows."""


class InDouble(TorchFunctionMode):
    """Calculate in float64 where a model asks for float32, whose rounding differs with the order of operations."""

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is Tensor.float:
            function = Tensor.double
        args = tuple(torch.double if argument is torch.float else argument for argument in args)
        return function(*args, **{
            key: torch.double if value is torch.float else value for key, value in (kwargs or {}).items()
        })


def build(name: str, attention: str = "eager") -> tuple[nn.Module, Tensor, tuple[int, ...]]:
    """A model in float64, its input, and the output to explain."""
    if name == "torchvision ViT":
        model: nn.Module = VisionTransformer(12, 4, 2, 4, 24, 40, num_classes=3)
    else:
        kind, config, options = OF_TRANSFORMERS[name]
        model = kind(config(**options, attn_implementation=attention))
    for parameter_name, parameter in model.named_parameters():
        for part, part_before in NAMES_OF_BEFORE.items():
            parameter_name = parameter_name.replace(part, part_before) if name == "ViT" else parameter_name
        parameter.data = _values(parameter_name, parameter.shape)
    is_of_images = "ViT" in name
    return model.double().eval(), IMAGE if is_of_images else IDS, (1,) if is_of_images or name == "BERT" else (-1, 7)


def _values(name: str, shape: torch.Size) -> Tensor:
    """Of a scale as in trained models. The squares give matrices of full rank."""
    wave = torch.sin(.7 * torch.arange(shape.numel(), dtype=torch.double) ** 2 + zlib.crc32(name.encode()) % 1000)
    is_scale = len(shape) == 1 and name.endswith("weight")
    return (1 + .3 * wave if is_scale else .2 * wave if len(shape) == 1 else .3 * wave).reshape(shape)
