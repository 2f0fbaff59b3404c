"""What is attached to a model while relevance flows through it: reading and masking at layers."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils import hooks
from zennit.core import Hook, RemovableHandle, RemovableHandleList

from crp.attribution.sample_rows import LayerRows, SampleRows
from crp.attribution.steps import LayerOutputs
from crp.concepts import Concept, EncodedConcept
from crp.concepts.base import Mask
from crp.model.callbacks import apply_masks, call_reader
from crp.model.edits import Edit
from crp.model.layers import LayerAddress, flatten_tensors, leaf_index, resolve_layer, unflatten_tensors
from crp.model.rows import copy_rows, keep_marks

RecordFunction: TypeAlias = Callable[[torch.Tensor, str], Any]
"""``(activation or relevance, layer) -> what is kept of it``."""


class ForwardStopped(BaseException):
    """Ends a forward pass whose rest is not needed. No error: a model that handles exceptions shall not stop it."""


class _Beginning(torch.autograd.Function):
    """Where an autograd graph begins without a leaf, which would accumulate gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, anchor: torch.Tensor) -> torch.Tensor:
        return tensor.detach()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, None]:
        return None, None


def tap(
    tensor: torch.Tensor, on_relevance: Callable[[torch.Tensor], torch.Tensor | None], copy: bool = True
) -> torch.Tensor:
    """A tensor to go on with, such that relevance arriving there goes through ``on_relevance`` first.

    By default a copy: whoever keeps the tensor has it as it is now, whatever is done in place to the copy.
    """
    if not tensor.requires_grad:
        return tensor
    tensor = keep_marks(tensor, copy_rows(tensor)) if copy else tensor
    tensor.register_hook(lambda relevance: None if relevance is None else on_relevance(relevance))
    return tensor


class OutputHook(Hook):
    """A zennit hook at a module's (first) output, for subclasses that say what happens to relevance there."""

    def post_forward(self, module: nn.Module, input: Any, output: Any) -> Any:
        """The output to go on with, such that relevance arriving there goes through ``backward(module, relevance)``."""
        address = LayerAddress(type(module).__name__, "", module)
        return visit_leaf(output, address, lambda tensor: tap(tensor, partial(self.backward, module)))

    def register(self, module: nn.Module) -> RemovableHandleList:
        """Attach to a module; the handles detach."""
        return RemovableHandleList([RemovableHandle(self), *hook_last(module, self.post_forward)])


class MaskHook(OutputHook):
    """A zennit hook that masks the relevance arriving at a module's (first) output.

    To mask by hand, register it with one of zennit's composites, beside the composite that holds the rules.

    Parameters
    ----------
    fn_list : list of callable
        Functions ``relevance -> relevance``, applied in order, such as ``ChannelConcept.mask(0, [3])`` returns.
    """

    def __init__(self, fn_list: list[Mask]):
        super().__init__()
        self.fn_list = fn_list

    def backward(self, module: nn.Module, grad: torch.Tensor) -> torch.Tensor:
        """Mask the relevance that arrives at the module."""
        return apply_masks(grad, self.fn_list)

    def copy(self) -> MaskHook:
        """A hook with the same list of functions."""
        return type(self)(self.fn_list)


class FeatVisHook(OutputHook):
    """A zennit hook that hands the activation and the relevance of a module to an analysis, as they appear.

    Parameters
    ----------
    FV : object
        Its methods ``analyze_activation`` and ``analyze_relevance`` are called with
        ``(tensor, layer_name, concept, sample_indices, targets)``.
    concept : crp.concepts.Concept
    layer_name : str
    dict_inputs : dict
        Describes the batch that is running, kept up to date by the caller: ``{"sample_indices": ..., "targets": ...}``.
    on_device : str or torch.device, optional
        Where to move tensors before they are analysed.
    """

    def __init__(
        self, FV: Any, concept: Concept, layer_name: str, dict_inputs: dict,  # noqa: N803
        on_device: str | torch.device | None = None,
    ):
        super().__init__()
        self.FV, self.concept, self.layer_name = FV, concept, layer_name
        self.dict_inputs, self.on_device = dict_inputs, on_device

    def _analyze(self, analyze: Callable, tensor: torch.Tensor) -> None:
        batch = self.dict_inputs
        tensor = tensor.detach() if self.on_device is None else tensor.detach().to(self.on_device)
        analyze(tensor, self.layer_name, self.concept, batch["sample_indices"], batch["targets"])

    def post_forward(self, module: nn.Module, input: Any, output: Any) -> Any:
        """Have the activation analysed, and the relevance when it arrives."""
        leaves = flatten_tensors(output)
        activation = leaves[leaf_index(leaves, LayerAddress(self.layer_name, "", module))]
        self._analyze(self.FV.analyze_activation, activation)
        return super().post_forward(module, input, output)

    def backward(self, module: nn.Module, grad: torch.Tensor) -> torch.Tensor:
        """Have the relevance that arrives at the module analysed; it goes on as it is."""
        self._analyze(self.FV.analyze_relevance, grad)
        return grad

    def copy(self) -> FeatVisHook:
        """A hook with the same arguments."""
        return type(self)(self.FV, self.concept, self.layer_name, self.dict_inputs, self.on_device)


def visit_leaf(value: Any, address: LayerAddress, visit: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A module's input or output, in which ``visit`` has replaced the tensor at an address."""
    leaves = flatten_tensors(value)
    index = leaf_index(leaves, address)
    leaves[index] = visit(leaves[index])
    return unflatten_tensors(value, leaves)


def tap_module(address: LayerAddress, visit: Callable[[torch.Tensor], torch.Tensor]) -> hooks.RemovableHandle:
    """Visit the tensor at an address in each call of its module; the model goes on with what ``visit`` returns.

    Returns
    -------
    torch.utils.hooks.RemovableHandle
    """
    if address.is_input:
        # The rules of a composite hook a module's input too: prepended, the tap reads what leaves the rule.
        return address.module.register_forward_pre_hook(
            lambda module, args, kwargs: visit_leaf((args, kwargs), address, visit), prepend=True, with_kwargs=True
        )
    return address.module.register_forward_hook(lambda module, args, output: visit_leaf(output, address, visit))


def hook_last(module: nn.Module, hook: Callable[[nn.Module, Any, Any], Any]) -> RemovableHandleList:
    """Have a forward hook run after all others, also those that are registered later.

    So relevance passes here before the rule of a composite, whichever was registered first.
    """
    attached = RemovableHandleList()

    def attach(*_: Any) -> None:
        attached.remove()
        attached.append(module.register_forward_hook(hook))

    return RemovableHandleList([module.register_forward_pre_hook(attach), attached])


class LayerTaps:
    """Reads activations and reads and masks relevance at layers of a model, while it is attached.

    In the backward pass the order is: record, then mask, then the rule of the module. A module that is called several
    times is read at its last call and masked at each.

    Parameters
    ----------
    model : torch.nn.Module
    held : iterable of str
        Addresses of layers whose tensors are kept.
    recorded : iterable of str
        Addresses of layers of which only what ``record_fn`` reads is kept.
    record_fn : callable, optional
        ``(activation or relevance, layer) -> anything``.
    from_layers : bool, default False
        Begin the autograd graph at the layers, where it has not begun before them: relevance ends there.
    stop : bool, default False
        Raise :class:`ForwardStopped` in the forward pass as soon as all layers have been read.
    codings : mapping, optional
        Layer -> :class:`crp.concepts.EncodedConcept`, whose code takes the place of the layer's tensor.
    rows : mapping, optional
        Layer -> :class:`crp.attribution.sample_rows.LayerRows`, for layers whose samples may be elsewhere than on the
        first axis.
    edits : list of (str, Edit), optional
        Addresses, and what is to be done there before the layers are read.
    sends_relevance : bool, default False
        Whether relevance comes back, rather than gradients.

    Attributes
    ----------
    outputs : LayerOutputs
        Layer -> its tensor, samples first, with autograd history, in the order in which the forward pass met them,
        while attached; for layers that are not held a tensor without data.
    handed_on : dict
        Layer -> the tensor that the model went on with at its last call.
    activations, relevances : dict
        Layer -> what arrived there in the forward and the last backward pass, before masking; what ``record_fn`` read.
    masks, masked_rows : dict
        Layer -> mask functions, and the rows that they mask.
    calls : dict
        Layer -> how often it was read.
    """

    def __init__(
        self, model: nn.Module, held: Iterable[str], recorded: Iterable[str] = (),
        record_fn: RecordFunction | None = None, *, from_layers: bool = False, stop: bool = False,
        codings: Mapping[str, EncodedConcept] | None = None, rows: Mapping[str, LayerRows] | None = None,
        edits: Iterable[tuple[str, Edit]] = (), sends_relevance: bool = False,
    ):
        self.held = set(held)
        self.addresses = [resolve_layer(model, layer) for layer in dict.fromkeys((*held, *recorded))]
        self.edits = [(resolve_layer(model, layer), edit) for layer, edit in edits]
        self.sends_relevance = sends_relevance
        self.recorded, self.record_fn = set(recorded), record_fn
        self.from_layers, self.stop, self.codings, self.rows = from_layers, stop, codings or {}, rows or {}
        self.outputs, self.handed_on = LayerOutputs(), dict[str, torch.Tensor]()
        self.activations: dict[str, Any] = {}
        self.relevances: dict[str, Any] = {}
        self.masks: dict[str, list[Mask]] = {}
        self.masked_rows: dict[str, list[int]] = {}
        self.calls: dict[str, int] = {}
        self._handles = RemovableHandleList()

    def __enter__(self) -> LayerTaps:
        visits = [(address, partial(self._visit, address.layer)) for address in self.addresses]
        edits = [(address, partial(self._edit, edit)) for address, edit in self.edits]
        # of the taps of an input, the last comes first
        first = [pair for pair in edits if not pair[0].is_input] + visits
        for address, visit in first + [pair for pair in reversed(edits) if pair[0].is_input]:
            self._handles.append(tap_module(address, visit))
        return self

    def __exit__(self, *exception: Any) -> None:
        self._handles.remove()
        self.outputs, self.handed_on = LayerOutputs(), {}  # the tensors hold their hooks, which hold this

    def _edit(self, edit: Edit, tensor: torch.Tensor) -> torch.Tensor:
        return edit.make(tensor, self.sends_relevance)

    def record(self, layer: str, tensor: torch.Tensor) -> Any:
        """What is kept of an activation or relevance."""
        if self.record_fn is None or layer not in self.recorded:
            return tensor.detach()
        return call_reader(self.record_fn, "record_fn", tensor.detach(), layer)

    def _visit(self, layer: str, tensor: torch.Tensor) -> torch.Tensor:
        if self.from_layers and not tensor.requires_grad:
            tensor = _Beginning.apply(tensor, torch.ones((), requires_grad=True))
        known = self.rows.get(layer)
        rows = SampleRows() if known is None else known.of(tensor.shape)
        if known is None or rows == SampleRows():
            return keep_marks(tensor, self._visit_samples(layer, tensor))
        samples = rows.samples_first(copy_rows(tensor), known.rows_last)
        return keep_marks(tensor, rows.as_it_was(self._visit_samples(layer, samples), known.rows_last))

    def _visit_samples(self, layer: str, tensor: torch.Tensor) -> torch.Tensor:
        concept = self.codings.get(layer)
        if concept is None:
            return self._read(layer, tensor)
        return concept.splice(
            tensor, lambda code: self._read(layer, code), lambda: self.masked_rows.get(layer, [])
        )

    def _read(self, layer: str, tensor: torch.Tensor) -> torch.Tensor:
        held = layer in self.held
        self.outputs.add(layer, tensor if held else torch.empty_like(tensor, device="meta"))
        self.activations[layer] = self.record(layer, tensor)
        self.calls[layer] = call = self.calls.get(layer, 0) + 1
        if self.stop and len(self.outputs) == len(self.addresses):
            raise ForwardStopped
        self.handed_on[layer] = tap(tensor, lambda relevance: self.receive(layer, relevance, call), copy=held)
        return self.handed_on[layer]

    def receive(self, layer: str, relevance: torch.Tensor, call: int | None = None) -> torch.Tensor:
        """Record the relevance that arrives at a layer, if at its last call, and mask it."""
        if call is None or call == self.calls[layer]:
            self.relevances[layer] = self.record(layer, relevance)
        masks = self.masks.get(layer)
        return apply_masks(relevance, masks) if masks else relevance


class FiniteWatch:
    """Finds the first module at which activations or relevance cease to be finite, while it is attached."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.activation: str | None = None
        self.relevance: str | None = None
        self._handles = RemovableHandleList()

    def __enter__(self) -> FiniteWatch:
        for name, module in self.model.named_modules():
            if next(module.children(), None) is None:
                self._handles += [
                    module.register_forward_pre_hook(lambda module, args, name=name: self._watch_input(args, name)),
                    module.register_forward_hook(
                        lambda module, args, output, name=name: self._watch_output(output, name)
                    ),
                ]
        return self

    def __exit__(self, *exception: Any) -> None:
        self._handles.remove()

    def _watch_input(self, args: Any, name: str) -> Any:
        def see(relevance: torch.Tensor) -> None:
            self._see_relevance(relevance, f"in the rule of {name!r}")

        return unflatten_tensors(args, [
            tap(leaf, see) if isinstance(leaf, torch.Tensor) else leaf for leaf in flatten_tensors(args)
        ])

    def _watch_output(self, output: Any, name: str) -> None:
        for tensor in flatten_tensors(output):
            if not isinstance(tensor, torch.Tensor):
                continue
            if self.activation is None and not torch.isfinite(tensor).all():
                self.activation = name
            if tensor.requires_grad:
                where = f"on its way to the output of {name!r}"
                tensor.register_hook(lambda relevance: self._see_relevance(relevance, where))

    def _see_relevance(self, relevance: torch.Tensor | None, where: str) -> None:
        if self.relevance is None and relevance is not None and not torch.isfinite(relevance).all():
            self.relevance = where

    def explanation(self) -> str:
        """A sentence that names the module, or says that none was found."""
        if self.relevance is None:
            return "relevance is NaN or infinite, but no module sent such values"
        hint = f"; activations become so in the module {self.activation!r}" if self.activation is not None else ""
        return f"relevance becomes NaN or infinite {self.relevance}{hint}"
