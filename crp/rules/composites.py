"""Composites that the literature found to work: which rule each kind of layer gets.

=======================  ===============================================================================================
``EpsilonPlusFlat``      convolutional networks; zennit's (S. Lapuschkin et al., 2019; M. Kohlbrenner et al., 2020)
``VisionTransformer``    images through attention (R. Achtibat et al., 2024)
``LanguageModel``        tokens through attention (R. Achtibat et al., 2024)
=======================  ===============================================================================================
"""
from __future__ import annotations

from torch import nn
from zennit.canonizers import Canonizer
from zennit.composites import EpsilonPlus, EpsilonPlusFlat, LayerMapComposite, layer_map_base
from zennit.core import BasicHook, Composite
from zennit.rules import Epsilon, Gamma
from zennit.types import Convolution, Linear

__all__ = ["EpsilonPlus", "EpsilonPlusFlat", "LanguageModel", "VisionTransformer", "default_composite"]


class VisionTransformer(LayerMapComposite):
    """Gamma rules, for transformers of images.

    Positive contributions count more than negative ones, which keeps heatmaps of images from becoming noise.

    Parameters
    ----------
    gamma : float, default 0.05
        In linear layers.
    convolution_gamma : float, default 0.25
        In convolutions, such as the embedding of patches.
    stabilizer : float or callable, default 1e-6
        As in zennit's rules.
    canonizers : list of zennit.core.Canonizer, optional

    References
    ----------
    R. Achtibat et al. (2024). AttnLRP: Attention-aware layer-wise relevance propagation for transformers. ICML.
    """

    def __init__(
        self, gamma: float = 0.05, convolution_gamma: float = 0.25, stabilizer: float = 1e-6,
        canonizers: list[Canonizer] | None = None,
    ):
        rules = [(Convolution, Gamma(convolution_gamma, stabilizer)), (nn.Linear, Gamma(gamma, stabilizer))]
        super().__init__([*layer_map_base(stabilizer), *rules], canonizers=canonizers)


class LanguageModel(LayerMapComposite):
    """The epsilon rule in linear layers, for transformers of text.

    Parameters
    ----------
    epsilon : float or callable, default 1e-6
    canonizers : list of zennit.core.Canonizer, optional

    References
    ----------
    R. Achtibat et al. (2024). AttnLRP: Attention-aware layer-wise relevance propagation for transformers. ICML.
    """

    def __init__(self, epsilon: float = 1e-6, canonizers: list[Canonizer] | None = None):
        super().__init__([*layer_map_base(epsilon), (Linear, Epsilon(epsilon))], canonizers=canonizers)


def default_composite(model: nn.Module, *, verbose: bool = True) -> Composite:
    """A composite that suits the kind of model.

    It has no canonizers: while relevance flows, :class:`crp.attribution.CondAttribution` merges batch norms and gives
    additions, attention and other functional operations their rules. Whether all is well,
    :meth:`crp.attribution.CondAttribution.audit` measures.

    Parameters
    ----------
    model : torch.nn.Module
    verbose : bool, default True
        Print what was chosen.

    Returns
    -------
    zennit.core.Composite
        :class:`VisionTransformer` for models with attention whose first layer is a convolution; :class:`LanguageModel`
        for other models with attention; otherwise zennit's EpsilonPlusFlat, or EpsilonPlus if the first layer is no
        convolution, in which Flat would make heatmaps uniform.

    Raises
    ------
    ValueError
        If the model has neither linear layers nor convolutions.

    Examples
    --------
    >>> from torch import nn
    >>> composite = default_composite(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval())
    composite: EpsilonPlusFlat (ZPlus in convolutions, Epsilon in linear layers, Flat in '0')
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, Linear)]
    has_attention = any("attention" in type(module).__name__.lower() for module in model.modules())
    if not layers and not has_attention:
        raise ValueError("the model has no linear layer and no convolution, to which the rules of LRP apply")
    first_name, first = layers[0] if layers else ("", None)
    if has_attention and isinstance(first, Convolution):
        composite, rules = VisionTransformer(), "Gamma in convolutions and linear layers"
    elif has_attention:
        composite, rules = LanguageModel(), "Epsilon in linear layers"
    elif isinstance(first, Convolution):
        composite = EpsilonPlusFlat()
        rules = f"ZPlus in convolutions, Epsilon in linear layers, Flat in {first_name!r}"
    else:
        composite, rules = EpsilonPlus(), "ZPlus in convolutions, Epsilon in linear layers"
    if verbose:
        print(f"composite: {type(composite).__name__} ({rules})")
    return composite


def gives_relevance(composite: Composite, model: nn.Module) -> bool:
    """Whether a composite is one of LRP: it has rules for linear layers, and not only for activations."""
    context: dict = {}
    rules = [(module, composite.module_map(context, name, module)) for name, module in model.named_modules()]
    rules += [(layer, composite.module_map(context, "", layer)) for layer in (nn.Linear(1, 1), nn.Conv2d(1, 1, 1))]
    return any(isinstance(module, Linear) and isinstance(rule, BasicHook) for module, rule in rules)
