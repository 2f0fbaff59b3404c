"""What LXT gives for the models of ``lxt_models.py``: the numbers of ``tests/rules/test_lxt.py``.

Needs LXT 2.1 and a version of ``transformers`` that it supports, such as 4.52.4, which only this script does. LXT
rewrites classes, so each number is computed in a process of its own. It knows no ViT of ``transformers``, to which its
rules are given by a map of classes, and no CP-LRP for BERT.
"""
from __future__ import annotations

import importlib
import json
import multiprocessing
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lxt_models import MODES, InDouble, build
from torch import nn
from zennit.composites import LayerMapComposite
from zennit.rules import Gamma

NUMBERS = Path(__file__).parents[1] / "tests" / "rules" / "lxt_numbers.json"


def patch(name: str, mode: str) -> None:
    """Let LXT rewrite the classes of an architecture."""
    from lxt.efficient import monkey_patch, monkey_patch_zennit
    from lxt.efficient.patches import layer_norm_forward, non_linear_forward, patch_attention, patch_method

    if name == "torchvision ViT":
        monkey_patch_zennit()
        return monkey_patch(importlib.import_module("torchvision.models.vision_transformer"))
    key = name.lower().replace("-", "").replace(" ", "")
    module = importlib.import_module(f"transformers.models.{key}.modeling_{key}")
    if name == "ViT":
        activation = importlib.import_module("transformers.activations").GELUActivation
        return monkey_patch(module, {
            activation: partial(patch_method, non_linear_forward, keep_original=True),
            nn.LayerNorm: partial(patch_method, layer_norm_forward),
            module: patch_attention,
        })
    maps = importlib.import_module(f"lxt.efficient.models.{key}")
    return monkey_patch(module, maps.attnLRP if mode == "attnlrp" else maps.cp_LRP)


def numbers(name: str, mode: str) -> dict[str, Any]:
    """The explained output, and the relevance of each token or pixel."""
    patch(name, mode)
    model, data, target = build(name)
    start = data if data.is_floating_point() else model.get_input_embeddings()(data).detach()
    start.requires_grad_()
    with InDouble():
        if name == "torchvision ViT":
            LayerMapComposite([(nn.Conv2d, Gamma(.25, 1e-14)), (nn.Linear, Gamma(.05, 1e-14))]).register(model)
            output = model(start)
        else:
            output = model(**{"pixel_values" if start is data else "inputs_embeds": start}).logits
        output[0][target].backward()
    relevance = (start * start.grad).sum(1 if start is data else -1)
    return {"output": output[0][target].item(), "relevance": relevance[0].tolist()}


def main() -> None:
    """Compute all numbers and write them."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        found = {name: {mode: pool.apply(numbers, (name, mode)) for mode in modes} for name, modes in MODES.items()}
    versions = {package: version(package) for package in ("lxt", "transformers", "torch", "torchvision", "zennit")}
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in {"versions": versions, **found}.items())
    NUMBERS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
