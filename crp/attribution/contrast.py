"""Outputs against others: why this and not that."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Contrast:
    """What stands under "y" in a condition to explain the difference between outputs: why this and not that.

    Relevance starts at both, at the outputs against which it is with the other sign. It adds up to the difference.

    Parameters
    ----------
    outputs, against : int, tuple of int or list of them
        Outputs, as they stand under "y": class numbers, or tuples that index further axes.

    Raises
    ------
    ValueError
        If both are the same.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from zennit.composites import EpsilonPlus
    >>> from crp.attribution import CondAttribution, Contrast
    >>> _ = torch.manual_seed(0)
    >>> attribution = CondAttribution(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval())
    >>> image = torch.rand(1, 1, 4, 4)
    >>> this, that, both = (
    ...     attribution(image, [{"y": y}], EpsilonPlus()).heatmap for y in (0, 2, Contrast(0, 2))
    ... )
    >>> torch.allclose(both, this - that)
    True
    """

    outputs: Any
    against: Any

    @classmethod
    def between_tokens(cls, tokenizer: Any, outputs: Any, against: Any, position: int | None = -1) -> Contrast:
        """A contrast between tokens of a language model, by their texts: why "are" and not "is"?

        Parameters
        ----------
        tokenizer
            Of Hugging Face: each text has to be one token of its own, such as ``" are"`` where tokens hold the space
            before a word.
        outputs, against : str or list of str
        position : int or None, default -1
            Position of the logits [B, T, tokens]; None for logits [B, tokens].

        Raises
        ------
        ValueError
            If a text is not one token.
        """
        def indices(texts: Any) -> list:
            found = []
            for text in [texts] if isinstance(texts, str) else texts:
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
                    tokens = tokenizer.convert_ids_to_tokens(ids)
                    raise ValueError(f"{text!r} is no token of its own but {tokens}; after a space it may be one")
                found.append(ids[0] if position is None else (position, ids[0]))
            return found

        return cls(indices(outputs), indices(against))

    def __post_init__(self) -> None:
        if str(self.outputs) == str(self.against):
            raise ValueError(f"a contrast is between different outputs, not {self.outputs!r} and itself")
