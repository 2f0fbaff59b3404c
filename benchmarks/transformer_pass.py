"""Heatmaps of transformers: a pass over a plain forward and backward pass, in time and in memory.

Without arguments, a process for each measurement runs this script.
"""
import copy
import json
import subprocess
import sys

import torch
import torchvision
from common import Row, deviation, peak_memory, photographs, ratio_row, time_in_turn
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from crp.attribution import CondAttribution
from crp.composites import LanguageModel, VisionTransformer

BATCH = 4


def vision():
    """ViT-B/16 with random weights, photographs, and what makes their relevance."""
    torch.manual_seed(0)
    model = torchvision.models.vit_b_16().eval().requires_grad_(False)
    torch.nn.init.normal_(model.heads.head.weight)  # zero in a new network
    images = photographs(BATCH)[:][0]
    conditions = [{"y": [i]} for i in range(BATCH)]

    def plain():
        leaf = images.detach().requires_grad_()
        return torch.autograd.grad(model(leaf)[range(BATCH), range(BATCH)].sum(), leaf)[0]

    def ours(attribution, composite, count=BATCH):
        data = images[:count].to(attribution.model.conv_proj.weight.dtype)
        return attribution(data, conditions[:count], composite).heatmap

    return model, plain, ours


def language():
    """GPT-2 of 12 layers with random weights, 128 tokens, and what makes their relevance."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval().requires_grad_(False)
    tokens = torch.randint(model.config.vocab_size, (BATCH, 128))
    conditions = [{"y": [(-1, i)]} for i in range(BATCH)]

    def plain():
        leaf = model.transformer.wte(tokens).detach().requires_grad_()
        logits = model(inputs_embeds=leaf).logits
        return torch.autograd.grad(logits[range(BATCH), -1, range(BATCH)].sum(), leaf)[0]

    def ours(attribution, composite, count=BATCH):
        return attribution({"input_ids": tokens[:count]}, conditions[:count], composite).heatmap["input_ids"]

    return model, plain, ours


MODELS = {
    "ViT-B/16, batch 4": (vision, {"epsilon rule": LanguageModel, "gamma rule": VisionTransformer}),
    "GPT-2, 128 tokens, batch 4": (language, {"epsilon rule": LanguageModel}),
}


def attribution_of(model: nn.Module, **options) -> CondAttribution:
    """An attribution of either model."""
    return CondAttribution(model, output="logits" if isinstance(model, GPT2LMHeadModel) else None, **options)


def measure_time(name: str) -> None:
    """Print a row for each rule, whose relevance is compared with zennit's own rules on modules, in float64."""
    make, composites = MODELS[name]
    model, plain, ours = make()
    attribution = attribution_of(model)
    for rule, composite in composites.items():
        composite = composite()
        plain()
        error = deviation(*(
            ours(attribution_of(copy.deepcopy(model).double(), accelerate=accelerate), composite)
            for accelerate in (True, False)
        ))
        ratios, = time_in_turn(lambda composite=composite: ours(attribution, composite), plain, repeats=7)
        ratio_row(f"LRP pass, {name}, {rule}", "plain forward + backward", 1.6, ratios, error).print()


def measure_memory(name: str, rule: str) -> None:
    """Print what passes of one kind add to the memory of the process, in GB."""
    make, composites = MODELS[name]
    model, plain, ours = make()
    attribution, composite = attribution_of(model), composites.get(rule, LanguageModel)()
    before = peak_memory()
    if rule != "plain":
        ours(attribution, composite, count=1)  # with the audit that the first call may bring
    for _ in range(2):
        plain() if rule == "plain" else ours(attribution, composite)
    print(json.dumps(peak_memory() - before))


def main() -> None:
    """Measure in processes of their own and print the rows."""
    def run(*arguments):
        done = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout

    for name, (_, composites) in MODELS.items():
        print(run("time", name), end="")
        plain, *others = (float(run("memory", name, rule)) for rule in ("plain", *composites))
        for rule, added in zip(composites, others):
            ratio = added / plain
            Row(f"the same, {name}, {rule}: memory that it adds", "plain forward + backward", ratio, 1.6,
                (ratio, ratio)).print()


if len(sys.argv) > 1:
    {"time": measure_time, "memory": measure_memory}[sys.argv[1]](*sys.argv[2:])
else:
    main()
