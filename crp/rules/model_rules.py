"""The rules of composites on one model: attached for a call or for several, and what was found out on the way."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn
from zennit.core import Composite, Hook

from crp.model.edits import edits_of, without_edits
from crp.model.inputs import Inputs, map_tensors
from crp.model.layers import has_layer
from crp.rules.acceleration import accelerate
from crp.rules.attach import (
    check_registered,
    freeze_parameters,
    pass_activations,
    registered,
)
from crp.rules.batch_norms import BatchNorms, find_batch_norms, merging, weighing
from crp.rules.composites import gives_relevance
from crp.rules.operations.choice import ATTENTION, OperationRules
from crp.rules.restoring import ModuleState, TensorState, undone
from crp.rules.used_weights import leave_open


class ModelRules:
    """Attaches the rules of composites to a model.

    Parameters
    ----------
    model : torch.nn.Module

    Attributes
    ----------
    writes_to_inputs : bool
        Whether the model was found to write in place to what a fast rule reads, of which zennit's rules hold copies.
    makes_integers : bool
        Whether the model was found to make integers of real numbers, perhaps to look something up.
    read_once : set
        (layers, shapes of the inputs) for which the model was found to call each layer once.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.writes_to_inputs = self.makes_integers = False
        self.read_once: set[tuple] = set()
        self._kept: tuple[Composite | None, OperationRules | None] | None = None
        self._edited: set[nn.Module] = set()
        self._batch_norms: tuple[Any, BatchNorms] = (None, BatchNorms([], []))

    @property
    def are_kept(self) -> bool:
        """Whether rules stay on the model between calls."""
        return self._kept is not None

    def check_free(self, composite: Composite | None) -> None:
        """Raise a ValueError if other rules than those of this composite are on the model, or its own elsewhere."""
        if self._kept is None:
            check_registered(self.model, composite)
        elif composite is not self._kept[0]:
            raise ValueError("the rules of another composite are attached: leave the context of attached() first")

    @contextmanager
    def naming(self, composite: Composite | None, layers: Iterable[str]) -> Iterator[None]:
        """Have all layers on the model, if some are only there with the canonizers of a composite."""
        is_known = self._kept is not None or all(has_layer(self.model, layer) for layer in layers)
        with nullcontext() if composite is None or is_known else registered(composite, self.model):
            yield

    @contextmanager
    def kept(self, composite: Composite | None, data: Inputs, **options: Any) -> Iterator[None]:
        """Leave rules on the model between calls within the context; the arguments are those of :meth:`attached`."""
        def forget() -> None:
            self._kept = None

        with self.attached(composite, data, **options) as operation_rules, undone(forget):
            self._kept = composite, operation_rules
            self._edited = {edit.address.module for _, edit in edits_of(self.model)}
            yield

    @contextmanager
    def attached(
        self, composite: Composite | None, data: Inputs, *, accelerated: bool, functional: bool | str, freeze: bool,
        repeated: bool = False,
    ) -> Iterator[OperationRules | None]:
        """Have the rules of a composite on the model, whose parameters and buffers stay as they are.

        Parameters
        ----------
        composite : zennit.core.Composite, optional
        data : torch.Tensor, tuple or dict
            Inputs of the model; the first shows which batch norms are to be merged.
        accelerated : bool
            Replace zennit's rules by faster ones.
        functional : bool or str
            As for ``CondAttribution``.
        freeze : bool
            Let no parameter require gradients.
        repeated : bool, default False
            Whether there will be several backward passes.

        Yields
        ------
        OperationRules or None
            The rules for operations, if they are to be applied.
        """
        edited = {edit.address.module: layer for layer, edit in edits_of(self.model)}
        if self._kept is not None:
            if edited.keys() != self._edited:
                raise ValueError("layers have been changed since rules were attached: enter intervene() first")
            yield self._kept[1]
            return
        gives_rules = bool(composite is not None and functional and freeze and gives_relevance(composite, self.model))
        open_rules: dict[nn.Module, Hook] = {}
        with undone(TensorState(self.model).restore):
            if freeze:
                freeze_parameters(self.model)
            if composite is None:
                with undone(ModuleState(self.model, only_rules=True).restore):  # which registered rules change
                    yield None
                return
            if gives_rules:
                batch_norms = self._find_batch_norms(data)
                composite = weighing(composite, self.model, batch_norms.after_activation)
                pairs = [(linear, norm) for linear, norm in batch_norms.mergeable if not edited.keys() & {
                    self.model.get_submodule(linear), self.model.get_submodule(norm)
                }]
                composite = merging(composite, self.model, pairs)
                composite, open_rules = leave_open(composite, self.model)
            composite = accelerate(composite, repeated=repeated) if accelerated else composite
            places = _places_of_parameters(edited)
            with registered(composite, self.model):
                for module, layer in edited.items():
                    if _places_of_parameters([module])[module] != places[module]:
                        raise ValueError(
                            f"a canonizer of the composite changes the parameters of {layer!r}, whose output is set to "
                            "other values, so that they would mean something else: use the composite without it"
                        )
                if freeze:  # canonizers bring parameters of their own
                    freeze_parameters(self.model)
                if not gives_rules:
                    yield None
                    return
                pass_activations(self.model)
                attention = functional if isinstance(functional, str) else ATTENTION[0]
                open_layers = {module: _everywhere(rule) for module, rule in open_rules.items()}
                if accelerated:
                    open_layers = {module: accelerate(own, repeated=repeated) for module, own in open_layers.items()}
                yield OperationRules(composite, self.model, attention, self.writes_to_inputs, open_layers)

    def _find_batch_norms(self, data: Inputs) -> BatchNorms:
        """What feeds the batch norms; found out once for the modules of the model."""
        modules = list(self.model.named_modules())
        known, found = self._batch_norms
        if known is None or len(known) != len(modules) or any(a is not b[1] for a, b in zip(known, modules)):
            with without_edits():
                try:
                    found = find_batch_norms(self.model, map_tensors(lambda tensor: tensor[:1].detach(), data))
                except Exception:  # a model of which no sample can be taken out, such as nodes of a graph
                    found = find_batch_norms(self.model, map_tensors(lambda tensor: tensor.detach(), data))
            self._batch_norms = [module for _, module in modules], found
        return found


def _places_of_parameters(modules: Iterable[nn.Module]) -> dict[nn.Module, list[int]]:
    """Where the parameters of modules lie in memory."""
    return {module: [p.data_ptr() for p in module.parameters(recurse=False)] for module in modules}


def _everywhere(rule: Hook) -> Composite:
    return Composite(lambda context, name, module: rule)
