"""A composite that suits a model: rules for its layers and canonizers for its structure."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import fx, nn
from zennit.canonizers import NamedMergeBatchNorm
from zennit.composites import EpsilonPlus, EpsilonPlusFlat
from zennit.core import BasicHook, Composite
from zennit.torchvision import ResNetBasicBlockCanonizer, ResNetBottleneckCanonizer
from zennit.types import BatchNorm, Convolution, ConvolutionTranspose, Linear


class MergeNamedBatchNorm(NamedMergeBatchNorm):
    """Like zennit's, but what remains of a batch norm is the identity exactly: it no longer adds its epsilon.

    Parameters
    ----------
    name_map : list of (list of str, str)
        Names of linear layers, and of the batch norm that is merged into them.
    """

    def register(self, linears: Iterable[nn.Module], batch_norm: nn.Module) -> None:
        """Merge a batch norm."""
        super().register(linears, batch_norm)
        self.epsilon, batch_norm.eps = batch_norm.eps, 0.

    def remove(self) -> None:
        """Restore what was merged."""
        self.batch_norm.eps = self.epsilon
        super().remove()


def default_composite(model: nn.Module, *, verbose: bool = True) -> Composite:
    """A composite with the canonizers that a model needs.

    Convolutions get the ZPlus rule and linear layers Epsilon; a first layer that is a convolution gets Flat, which
    spreads relevance evenly over what each of its neurons sees. Batch norms are merged into the layer that alone feeds
    them, and additions in torchvision's residual blocks become layers with a rule.

    Whether this is enough, :meth:`crp.attribution.CondAttribution.audit` measures.

    Parameters
    ----------
    model : torch.nn.Module
    verbose : bool, default True
        Print what was chosen.

    Returns
    -------
    zennit.core.Composite

    Raises
    ------
    ValueError
        If the model has neither linear layers nor convolutions.

    Examples
    --------
    >>> from torch import nn
    >>> composite = default_composite(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval())
    rules: EpsilonPlusFlat (ZPlus in convolutions, Epsilon in linear layers, Flat in '0')
    canonizer: MergeNamedBatchNorm (1 of 1 batch norms merged)
    """
    first = next(((name, module) for name, module in model.named_modules() if isinstance(module, Linear)), None)
    if first is None:
        raise ValueError("the model has no linear layer and no convolution, to which the rules of LRP apply")
    canonizers, choices = [], []
    batch_norms = [name for name, module in model.named_modules() if isinstance(module, BatchNorm)]
    if batch_norms:
        pairs = _mergeable(model)
        canonizers.append(MergeNamedBatchNorm([([linear], batch_norm) for linear, batch_norm in pairs]))
        choices.append(f"canonizer: MergeNamedBatchNorm ({len(pairs)} of {len(batch_norms)} batch norms merged)")
    for canonizer in (ResNetBottleneckCanonizer(), ResNetBasicBlockCanonizer()):
        blocks = canonizer.apply(model)
        for block in blocks:
            block.remove()
        if blocks:
            canonizers.append(canonizer)
            choices.append(f"canonizer: {type(canonizer).__name__} (additions of {len(blocks)} residual blocks)")
    if isinstance(first[1], Convolution):
        composite = EpsilonPlusFlat(canonizers=canonizers)
        rules = f"EpsilonPlusFlat (ZPlus in convolutions, Epsilon in linear layers, Flat in {first[0]!r})"
    else:
        composite = EpsilonPlus(canonizers=canonizers)
        rules = "EpsilonPlus (ZPlus in convolutions, Epsilon in linear layers)"
    if verbose:
        print("\n".join([f"rules: {rules}", *choices]))
    return composite


def gives_relevance(composite: Composite, model: nn.Module) -> bool:
    """Whether a composite is one of LRP: it has rules for linear layers, and not only for activations."""
    context: dict = {}
    rules = [(module, composite.module_map(context, name, module)) for name, module in model.named_modules()]
    return any(isinstance(module, Linear) and isinstance(rule, BasicHook) for module, rule in rules)


def _mergeable(model: nn.Module) -> list[tuple[str, str]]:
    """Names of linear layers and batch norms that one alone feeds the other, as far as that can be known."""
    try:
        graph = fx.Tracer().trace(model)
    except Exception:  # whatever code of the model cannot be traced raises
        pairs = _neighbours(model)
    else:
        calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
        pairs = [
            (source.target, node.target) for node in graph.nodes if node.op == "call_module" and node.args
            for source in node.args[:1]
            if isinstance(source, fx.Node) and source.op == "call_module" and len(source.users) == 1
            and calls[source.target] == calls[node.target] == 1
        ]
    return [(linear, norm) for linear, norm in pairs if _fit(model.get_submodule(linear), model.get_submodule(norm))]


def _neighbours(model: nn.Module) -> list[tuple[str, str]]:
    """Pairs of modules without children that follow each other in the same parent."""
    leaves = [name for name, module in model.named_modules() if next(module.children(), None) is None]
    return [(a, b) for a, b in pairwise(leaves) if a.rpartition(".")[0] == b.rpartition(".")[0]]


def _fit(linear: nn.Module, batch_norm: nn.Module) -> bool:
    if not isinstance(linear, Linear) or not isinstance(batch_norm, BatchNorm):
        return False
    parameters = (batch_norm.weight, batch_norm.bias, batch_norm.running_mean)
    if not all(isinstance(parameter, torch.Tensor) for parameter in parameters):
        return False
    channels = linear.weight.shape[1 if isinstance(linear, ConvolutionTranspose) else 0]
    return channels == batch_norm.num_features
