"""Results of LXT 2.1, which ``benchmarks/lxt_numbers.py`` computed once, on small models of eight architectures."""
import json
from pathlib import Path

import pytest
import torch
from lxt_models import MODES, InDouble, build

from crp.attribution import CondAttribution
from crp.composites import LanguageModel, VisionTransformer

NUMBERS = json.loads(Path(__file__).with_name("lxt_numbers.json").read_text())
OF_TORCHVISION = "torchvision ViT"
CASES = [
    (name, mode, attention) for name, modes in MODES.items() for mode in modes
    for attention in (["eager"] if name == OF_TORCHVISION else ["eager", "sdpa"])
]


@pytest.mark.parametrize("name, mode, attention", CASES)
def test_relevance_is_that_of_lxt(name, mode, attention):
    model, data, target = build(name, attention)
    is_of_images, expected = data.is_floating_point(), NUMBERS[name][mode]
    attribution = CondAttribution(
        model, output=None if name == OF_TORCHVISION else "logits", heatmap_axis=1 if is_of_images else -1,
        functional=mode,
    )
    composite = VisionTransformer(attention_gamma=0, stabilizer=1e-14) if mode == "cp-lrp" else LanguageModel(1e-14)
    with InDouble():
        result = attribution(data if is_of_images else {"input_ids": data}, [{"y": [target]}], composite)
    computed_before = f"no longer the model of version {NUMBERS['versions']['transformers']} of transformers"
    assert result.prediction[0][target].item() == pytest.approx(expected["output"], rel=1e-12), computed_before
    heatmap = result.heatmap[0] if is_of_images else result.heatmap["input_ids"][0]
    relevance = torch.tensor(expected["relevance"], dtype=torch.double)
    assert (heatmap - relevance).abs().max() <= 1e-7 * relevance.abs().max()
