"""Feature visualization: the samples of a dataset that show what a concept stands for."""
from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from zennit.core import Composite

from crp.analysis.pattern_search import find_patterns
from crp.analysis.patterns import Patterns
from crp.attribution.conditional import CondAttribution
from crp.concepts import Concept, as_id, as_ids
from crp.model.inputs import Inputs
from crp.model.names import unknown_layer_message
from crp.model.positions import ATTENTION_MASK, PositionMask
from crp.model.samples import join_samples
from crp.model.successors import Successor, is_overridden
from crp.pictures.image import vis_img_heatmap, vis_opaque_img
from crp.pictures.kinds import suiting
from crp.store.files import QUANTITIES
from crp.store.legacy import LegacyResults
from crp.store.reader import ReferenceStore, StoreError
from crp.store.references import References
from crp.visualization.arguments import check_count, check_range
from crp.visualization.picture_cache import Cache
from crp.visualization.reading import picture_key, results_of
from crp.visualization.reference_figures import ReferenceRow, draw_references
from crp.visualization.reference_pictures import ReferencePictures
from crp.visualization.results import OWN_ANALYSIS, Maximization, Results, ResultsAttribute, Statistics
from crp.visualization.swept_dataset import SweptDataset

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FeatureVisualization(SweptDataset, Successor):
    """Finds, in a dataset, the samples at which concepts are most active (ActMax) or most relevant (RelMax).

    Parameters
    ----------
    attribution : CondAttribution
    dataset : sequence
        ``dataset[i]`` gives (input, target), which an index may follow, an input alone, or a dict of model inputs with
        a target. Targets are class numbers, multi-hot vectors, masks or names of classes; floats (relevance from all
        outputs); or there are none (relevance from the largest output): see ``crp.model.targets.list_targets``.
        What can only be read from the start goes as :class:`crp.visualization.Stream`.
    layer_map : dict, iterable of pairs, or iterable of str
        Layer -> :class:`crp.concepts.Concept`; or layers whose channels are the concepts.
    preprocess_fn : callable, optional
        Applied to the input of each sample [1, ...] before the model sees it; pictures show the input without it.
    max_target : {"sum", "max"}
        Whether a concept's value is the sum over positions or the largest value.
    abs_norm : bool, default True
        Rank samples by the concept's share of the layer: its value divided by the sum of all absolute values.
    path : str or Path, default "FeatureVisualization"
        Folder of the store that :meth:`run` writes (see ``crp.store``). A folder that zennit-crp 0.6.0 wrote can be
        read.
    device : str or torch.device, optional
        By default that of the attribution.
    cache : crp.cache.Cache, optional
        Keeps pictures of references.
    target_key : str or None, default "labels"
        Where a dataset of dicts has the target; None if there is none.
    check : bool, default True
        Refuse to read a store that another model, dataset, concept, attribution or composite has made. With False
        it is read nonetheless: values are those of the sweep, pictures those of what is given now.
    start_layer : str, optional
        Relevance starts at this layer instead of the output, such as the input of a softmax; targets are its channels.
    y : int, list, crp.attribution.Contrast or "prediction", optional
        Where relevance starts whatever the targets are: at these outputs, at the difference between some, or at the
        largest of each sample.
    position_mask : str, callable or None, default "attention_mask"
        Which positions of samples count: the name of an input [B, T], a function ``inputs -> [B, T]``, or None for all.
    collate_fn : callable, optional
        Makes a batch of items, as that of a ``DataLoader``.
    class_names : sequence of str, optional
        Names of the outputs, by which targets may be given and are shown; by default ``dataset.classes``, if any.

    Attributes
    ----------
    RelMax, ActMax : crp.maximization.Maximization
    RelStats, ActStats : crp.statistics.Statistics
        How references and class statistics are ranked, with ``max_target`` and ``abs_norm``; others may be put in
        their place. Their ``PATH`` is what ``load_maximization``, ``load_statistics`` and ``load_stat_targets`` take.

    References
    ----------
    R. Achtibat et al. (2023). From attribution maps to human-understandable explanations through Concept Relevance
    Propagation. Nature Machine Intelligence 5, 1006-1019.
    """

    RelMax, ActMax = ResultsAttribute(Maximization, "relevance"), ResultsAttribute(Maximization, "activation")
    RelStats, ActStats = ResultsAttribute(Statistics, "relevance"), ResultsAttribute(Statistics, "activation")
    replaced = {
        "analyze_relevance": OWN_ANALYSIS, "analyze_activation": OWN_ANALYSIS,
        "get_data_concurrently": "override get_data_sample",
        "_load_ref_and_attribution": "override _attribution_on_reference, or give a plot_fn",
        "_save_results": "run writes a store, which crp.store.ReferenceStore reads",
        "_save_precomputed": "override save of a crp.cache.Cache",
        "cache_reference": "override load and save of a crp.cache.Cache",
        "saved_checkpoints": "run_distributed returns the names of what collect_results finishes",
    }

    def __init__(
        self,
        attribution: CondAttribution,
        dataset: Any,
        layer_map: Mapping[str, Concept] | Iterable[tuple[str, Concept]] | Iterable[str],
        preprocess_fn: Callable | None = None,
        max_target: str = "sum",
        abs_norm: bool = True,
        path: str | Path = "FeatureVisualization",
        device: str | torch.device | None = None,
        cache: Cache | None = None,
        *,
        target_key: str | None = "labels",
        check: bool = True,
        start_layer: str | None = None,
        y: Any = None,
        position_mask: PositionMask = ATTENTION_MASK,
        collate_fn: Callable | None = None,
        class_names: Sequence[str] | None = None,
    ):
        super().__init__(
            attribution, dataset, layer_map, preprocess_fn, max_target, abs_norm, path, device, target_key,
            start_layer, y, position_mask, collate_fn, class_names,
        )
        self.cache, self.check = cache, check
        self.RelMax, self.ActMax = (Maximization(mode, max_target, abs_norm, path) for mode in QUANTITIES)
        self.RelStats, self.ActStats = (Statistics(mode, max_target, abs_norm, path) for mode in QUANTITIES)

    @property
    def Cache(self) -> Cache | None:  # noqa: N802
        """The cache, under the name that it had in zennit-crp."""
        return self.cache

    @Cache.setter
    def Cache(self, cache: Cache | None) -> None:  # noqa: N802
        self.cache = cache

    def get_data_concurrently(self, indices: Any, preprocessing: bool = False) -> tuple[Inputs, list]:
        """Several samples.

        Parameters
        ----------
        indices : list, array or tensor of int
        preprocessing : bool, default False

        Returns
        -------
        data : torch.Tensor, tuple or dict
            [N, ...]
        targets : list
            As :meth:`get_data_sample` gives them.
        """
        numbers = as_ids(indices)
        samples = [self.get_data_sample(number, preprocessing) for number in numbers]
        return join_samples([data for data, _ in samples], numbers), [target for _, target in samples]

    def get_max_reference(
        self,
        concept_ids: Any,
        layer_name: str,
        mode: str = "relevance",
        r_range: tuple[int, int] = (0, 8),
        composite: Composite | None = None,
        rf: bool = False,
        plot_fn: Callable | None = vis_img_heatmap,
        batch_size: int = 32,
        *,
        targets: Any = None,
        overwrite: bool = False,
    ) -> dict[int, Any]:
        """The samples at which concepts are most relevant or most active, with conditional heatmaps.

        Parameters
        ----------
        concept_ids : int, list, array or tensor of int
        layer_name : str
        mode : {"relevance", "activation"}
            RelMax or ActMax.
        r_range : (int, int), default (0, 8)
            Which references: from the first, up to but without the second, in descending order.
        composite : zennit.core.Composite, optional
            The rules for heatmaps; without it there are none. Where mode is "relevance", those of the sweep.
        rf : bool, default False
            Heatmaps of the concept's strongest neuron only, and pictures cropped to it: its receptive field.
        plot_fn : callable or None
            ``(inputs, heatmaps, rf) -> pictures``, such as ``crp.image.vis_opaque_img``. The default is for images;
            inputs of other kinds are shown by :func:`crp.image.vis_by_kind` instead. With None, the inputs and heatmaps
            themselves come back. Without composite there are no heatmaps to show: pictures of the inputs come back
            instead.
        batch_size : int, default 32
        targets : int or list of int, optional
            Start the heatmaps at these outputs instead of at the layer: what the concept contributes to them.
        overwrite : bool, default False
            Make pictures anew that the cache holds.

        Returns
        -------
        dict
            Concept id -> what ``plot_fn`` gives; with ``plot_fn=None`` (inputs, heatmaps), or inputs without composite.

        Raises
        ------
        StoreError
            If the sweep was of another model, dataset or concept, or, where mode is "relevance", with other rules; the
            message names what differs.

        Warns
        -----
        UserWarning
            If a concept is never active or never relevant: its references are samples like any other.
        """
        wanted: dict[int, tuple[int, int | None]] = {concept: (concept, None) for concept in as_ids(concept_ids)}
        return self._references(
            wanted, layer_name, mode, r_range, composite, rf, plot_fn, batch_size, targets, overwrite
        )

    def get_stats_reference(
        self,
        concept_id: int,
        layer_name: str,
        targets: Any,
        mode: str = "relevance",
        r_range: tuple[int, int] = (0, 8),
        composite: Composite | None = None,
        rf: bool = False,
        plot_fn: Callable | None = vis_img_heatmap,
        batch_size: int = 32,
        *,
        overwrite: bool = False,
    ) -> dict[str, Any]:
        """The samples of single classes at which a concept is most relevant or most active.

        Parameters
        ----------
        concept_id : int
        layer_name : str
        targets : int, list, array or tensor of int
            The classes.
        mode, r_range, composite, rf, plot_fn, batch_size, overwrite
            As for :meth:`get_max_reference`.

        Returns
        -------
        dict
            ``"concept_id:target"`` -> as in :meth:`get_max_reference`.
        """
        concept = as_id(concept_id)
        wanted = {f"{concept}:{target}": (concept, target) for target in as_ids(targets)}
        return self._references(wanted, layer_name, mode, r_range, composite, rf, plot_fn, batch_size, None, overwrite)

    def plot_references(
        self,
        concept_ids: Any,
        layer_name: str,
        mode: str = "relevance",
        r_range: tuple[int, int] = (0, 8),
        composite: Composite | None = None,
        rf: bool = False,
        plot_fn: Callable = vis_img_heatmap,
        batch_size: int = 32,
        *,
        targets: Any = None,
        common_scale: bool = False,
    ) -> Figure:
        """A figure of references, with what a reader needs beside the pictures.

        Above each sample stand its index in the dataset, its targets, the value of the concept there, and the largest
        absolute relevance of its heatmap. A concept that is never active, or has no positive value in any sample, says
        so. Pictures are made anew, also those that a cache holds.

        Parameters
        ----------
        concept_ids, layer_name, mode, r_range, composite, rf, plot_fn, batch_size, targets
            As for :meth:`get_max_reference`.
        common_scale : bool, default False
            Give colours one meaning in all heatmaps of a concept; ``plot_fn`` is then called with
            ``common_scale=True``.

        Returns
        -------
        matplotlib.figure.Figure
            A row per concept, or two where there are images and heatmaps.

        Raises
        ------
        StoreError
            As from :meth:`get_max_reference`.
        """
        self._check_reference_arguments(layer_name, mode)
        first, stop = check_range(r_range)
        check_count("batch_size", batch_size)
        concepts = {concept: (concept, None) for concept in as_ids(concept_ids)}
        found = self._strongest(self._results(mode, composite), concepts, layer_name, mode, first, stop)
        material = self._pictures(layer_name).draw(
            found, composite, rf, None, batch_size, None if targets is None else as_ids(targets)
        )
        rows = [
            ReferenceRow(
                f"concept {concept}", mode, top, [self._classes_of(sample) for sample in top.samples.tolist()],
                *(material[concept] if composite is not None else (material[concept], None)),
            ) for concept, (_, top) in found.items()
        ]
        plot_fn = partial(suiting(plot_fn), common_scale=True) if common_scale else suiting(plot_fn)
        is_share = self._ranking(mode, of_classes=False).abs_norm
        return draw_references(rows, layer_name, plot_fn, rf, common_scale, is_share)

    def _classes_of(self, sample: int) -> list[str]:
        """Names of the classes of a sample, or their numbers."""
        targets = self.multitarget_to_single(self.get_data_sample(sample, preprocessing=False)[1])
        names = dict(enumerate(self.class_names or ()))
        return [names.get(target, str(int(target))) for target in targets if target >= 0]

    def compute_stats(
        self, concept_id: int, layer_name: str, mode: str = "relevance", top_N: int = 5, mean_N: int = 10,  # noqa: N803
        norm: bool = False,
    ) -> tuple[np.ndarray, torch.Tensor]:
        """The classes that a concept serves most.

        Parameters
        ----------
        concept_id : int
        layer_name : str
        mode : {"relevance", "activation"}
        top_N : int, default 5
            How many classes.
        mean_N : int, default 10
            A class counts by the mean over its ``mean_N`` best samples.
        norm : bool, default False
            Divide by the value of the best class.

        Returns
        -------
        targets : numpy.ndarray
            [top_N] classes, the best first; if it is one only, a scalar.
        values : torch.Tensor
            [top_N]
        """
        self._check_reference_arguments(layer_name, mode)
        check_count("top_N", top_N)
        check_count("mean_N", mean_N)
        targets, means = self._results(mode).class_means(
            layer_name, as_id(concept_id), mode, mean_N, **self._ranking(mode, of_classes=True).selection()
        )
        best = np.argsort(-means, kind="stable")[:top_N]
        values = torch.from_numpy(means[best]).float()
        if norm and len(values) and values[0] != 0:
            values = values / values[0]
        return targets[best[0] if len(best) == 1 else best], values

    def open_store(self, composite: Composite | None = None, *, layer: str | None = None) -> ReferenceStore:
        """The store of a sweep that has finished, if it was made with what this holds.

        Parameters
        ----------
        composite : zennit.core.Composite, optional
            The rules of the sweep; if it is given, they are compared.
        layer : str, optional
            If it is given, it has to be one of ``layer_map``.

        Raises
        ------
        ValueError
            If there is no such layer.
        StoreError
            If there is none, it was made with something else, or by zennit-crp, which keeps no matrices.
        """
        if layer is not None:
            self._check_reference_arguments(layer, "relevance")
        return self._matrices("relevance", composite)

    # Patterns

    def find_patterns(self, layer_name: str, mode: str = "activation", **options: Any) -> Patterns:
        """Cluster the samples by what a layer's concepts do in them, and keep the patterns in the store.

        Parameters
        ----------
        layer_name : str
        mode : {"activation", "relevance"}
        **options
            As for :func:`crp.analysis.find_patterns`.

        Returns
        -------
        Patterns
            ``Patterns.load(store, layer=layer_name, quantity=mode)`` reads them again.
        """
        self._check_reference_arguments(layer_name, mode)
        store = self._matrices(mode)
        patterns = find_patterns(store, layer_name, mode, **options)
        patterns.save(store)
        return patterns

    def get_pattern_reference(
        self,
        pattern_ids: Any,
        layer_name: str,
        mode: str = "activation",
        r_range: tuple[int, int] = (0, 8),
        composite: Composite | None = None,
        plot_fn: Callable | None = vis_img_heatmap,
        batch_size: int = 32,
        *,
        targets: Any = None,
    ) -> dict[int, Any]:
        """The samples that belong to patterns most firmly, with heatmaps of the layer: where all its concepts look.

        Parameters
        ----------
        pattern_ids : int, list, array or tensor of int
        layer_name, mode
            Which patterns, found before by :meth:`find_patterns`.
        r_range : (int, int), default (0, 8)
            Which samples: from the first, up to but without the second, the firmest first.
        composite, plot_fn, batch_size, targets
            As for :meth:`get_max_reference`.

        Returns
        -------
        dict
            Pattern -> as in :meth:`get_max_reference`.
        """
        self._check_reference_arguments(layer_name, mode)
        first, stop = check_range(r_range)
        check_count("batch_size", batch_size)
        store = self._matrices(mode, composite)
        patterns = Patterns.load(store, layer=layer_name, quantity=mode)
        concepts = list(store.concepts(layer_name))
        references = {}
        for pattern in as_ids(pattern_ids):
            rows = patterns.most_stable(pattern, stop)[first:]
            if len(rows) == 0:
                raise ValueError(f"r_range starts at {first}, but pattern {pattern} has {patterns.sizes[pattern]} rows")
            found = References(patterns.samples[rows], patterns.probability[rows], np.zeros_like(rows))
            references[pattern] = (concepts, found)
        targets = None if targets is None else as_ids(targets)
        return self._pictures(layer_name).draw(references, composite, False, suiting(plot_fn), batch_size, targets)

    def precompute_ref(
        self,
        layer_c_ind: Mapping[str, Any],
        composite: Composite,
        rf: bool = True,
        stats: bool = False,
        top_N: int = 4,  # noqa: N803
        mean_N: int = 10,  # noqa: N803
        mode: str = "relevance",
        r_range: tuple[int, int] = (0, 8),
        plot_list: list[Callable] = [vis_opaque_img],  # noqa: B006
        batch_size: int = 32,
    ) -> None:
        """Fill the cache with references.

        Parameters
        ----------
        layer_c_ind : dict
            Layer -> concept ids.
        composite : zennit.core.Composite
        rf : bool, default True
        stats : bool, default False
            Also the references in the ``top_N`` classes of each concept.
        top_N, mean_N
            As for :meth:`compute_stats`.
        mode, r_range, batch_size
            As for :meth:`get_max_reference`.
        plot_list : list of callable
            The plot functions to prepare.

        Raises
        ------
        ValueError
            If there is no cache.
        """
        if self.cache is None:
            raise ValueError("there is no cache to fill: FeatureVisualization(..., cache=ImageCache())")
        for layer, concept_ids in layer_c_ind.items():
            for plot_fn in plot_list:
                self.get_max_reference(concept_ids, layer, mode, r_range, composite, rf, plot_fn, batch_size)
                for concept in as_ids(concept_ids) if stats else []:
                    targets, _ = self.compute_stats(concept, layer, mode, top_N, mean_N)
                    self.get_stats_reference(concept, layer, targets, mode, r_range, composite, rf, plot_fn, batch_size)

    def _attribution_on_reference(
        self, data: Inputs, concept_id: int, layer_name: str, composite: Composite, rf: bool = False,
        neuron_ids: Any = (), batch_size: int = 32,
    ) -> Any:
        """Heatmaps of a concept on reference samples [N, ...], as the model sees them.

        Subclasses may override it, as they could in zennit-crp; heatmaps are then made concept by concept, with this
        method.
        """
        pictures = self._pictures(layer_name)
        return pictures.heatmaps_of(data, concept_id, layer_name, composite, rf, neuron_ids, batch_size)

    def _pictures(self, layer: str) -> ReferencePictures:
        pictures = ReferencePictures(
            self.attribution, self.get_data_sample, layer, self.layer_map[layer], self.start_layer, self.position_mask,
            self.collate_fn is not None,
        )
        if is_overridden(self, "_attribution_on_reference", FeatureVisualization):
            pictures.attribute_reference = self._attribution_on_reference
        return pictures

    def _results(self, mode: str, composite: Composite | None = None) -> ReferenceStore | LegacyResults:
        return results_of(self, mode, composite, self.check)

    def _ranking(self, mode: str, of_classes: bool) -> Results:
        prefix = {"relevance": "Rel", "activation": "Act"}[mode]
        return getattr(self, f"{prefix}{'Stats' if of_classes else 'Max'}")

    def _swept_statistic(self) -> str:
        rankings = self.RelMax, self.ActMax, self.RelStats, self.ActStats
        return "max" if "max" in {self.max_target, *(ranking.max_target for ranking in rankings)} else "sum"

    def _show(self, store: ReferenceStore) -> None:
        for ranking in (self.RelMax, self.ActMax):
            ranking.show(store)

    def _matrices(self, mode: str, composite: Composite | None = None) -> ReferenceStore:
        results = self._results(mode, composite)
        if not isinstance(results, ReferenceStore):
            raise StoreError(f"{self.path} was written by zennit-crp, which keeps no matrices: run the sweep again")
        return results

    def _check_reference_arguments(self, layer_name: str, mode: str) -> None:
        if mode not in QUANTITIES:
            raise ValueError(f"mode is 'relevance' or 'activation', not {mode!r}")
        if layer_name not in self.layer_map:
            raise ValueError(f"layer_map: {unknown_layer_message(layer_name, self.layer_map)}")

    def _references(
        self, wanted: Mapping[Any, tuple[int, int | None]], layer: str, mode: str, r_range: tuple[int, int],
        composite: Composite | None, rf: bool, plot_fn: Callable | None, batch_size: int, targets: Any, overwrite: bool,
    ) -> dict[Any, Any]:
        """References by key: {key: (concept, class or None)}."""
        self._check_reference_arguments(layer, mode)
        first, stop = check_range(r_range)
        check_count("batch_size", batch_size)
        targets, plot_fn = None if targets is None else as_ids(targets), suiting(plot_fn)
        results = self._results(mode, composite)
        cache = self.cache if plot_fn is not None else None
        found: dict[Any, Any] = {}
        missing, key = list(wanted), {}
        if cache is not None:
            key = picture_key(self, results, layer, mode, r_range, composite, rf, plot_fn, targets)
            if not overwrite:
                found, missing = cache.load(missing, key)
        references = self._strongest(results, {each: wanted[each] for each in missing}, layer, mode, first, stop)
        empty = [str(each) for each, (_, top) in references.items() if not abs(top.values[0]) > 0]
        if empty:
            warnings.warn(
                f"in no sample have these concepts of layer {layer!r} a positive {mode}: {', '.join(empty)}; their "
                "references are samples like any other", stacklevel=3,
            )
        made = self._pictures(layer).draw(references, composite, rf, plot_fn, batch_size, targets)
        if cache is not None:
            cache.save(made, key)
            made = cache.extend_dict(found, made)
        return {reference_id: made[reference_id] for reference_id in wanted}

    def _strongest(
        self, results: ReferenceStore | LegacyResults, wanted: Mapping[Any, tuple[int, int | None]], layer: str,
        mode: str, first: int, stop: int,
    ) -> dict[Any, tuple[list[int], References]]:
        references = {}
        for reference_id, (concept, target) in wanted.items():
            ranking = self._ranking(mode, of_classes=target is not None)
            top = results.top(layer, concept, mode, stop, target, **ranking.selection())
            if len(top.samples) <= first:
                where = "" if target is None else f" of class {target}"
                raise ValueError(f"r_range starts at {first}, but there are {len(top.samples)} references{where}")
            references[reference_id] = ([concept], References(*(part[first:] for part in top)))
        return references
