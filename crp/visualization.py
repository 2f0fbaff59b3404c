"""Feature visualization: the samples of a dataset that show what a concept stands for."""
from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from zennit.core import Composite

from crp.attribution import CondAttribution
from crp.cache import Cache
from crp.concepts import Concept, as_id, as_ids, as_layer_map, check_max_target
from crp.fingerprint import fingerprint, probe_indices
from crp.image import vis_img_heatmap, vis_inputs, vis_opaque_img
from crp.inputs import call_model, map_tensors
from crp.layers import unknown_layer_message
from crp.legacy import LegacyResults, is_legacy_folder, results_name
from crp.model_fingerprint import model_fingerprint
from crp.patterns import Patterns, find_store_patterns
from crp.rule_fingerprint import composite_fingerprint
from crp.samples import (
    SampleError,
    attempt_items,
    check_dataset,
    describe_error,
    join_samples,
    list_targets,
    split_item,
    with_batch_axis,
)
from crp.settings import check_reading, describe_attribution, describe_concept, describe_samples, known_passing
from crp.shards import check_complete, finished_shards, seal_store
from crp.store import QUANTITIES, References, ReferenceStore, StoreError, is_sealed, read_seal
from crp.sweep import Batch, Sweep
from crp.workers import Workers


@dataclass(frozen=True)
class Results:
    """Names one kind of results for the ``load_*`` functions of ``crp.helper``.

    Attributes
    ----------
    PATH : Path
    """

    PATH: Path


@dataclass(frozen=True)
class _Wanted:
    """A heatmap to compute: one concept on one reference sample."""

    key: Any
    slot: int
    condition: dict


class FeatureVisualization:
    """Finds, in a dataset, the samples at which concepts are most active (ActMax) or most relevant (RelMax).

    Parameters
    ----------
    attribution : CondAttribution
    dataset : sequence
        ``dataset[i]`` gives (input, target) or a dict of model inputs with a target; a target is a class number or a
        multi-hot vector.
    layer_map : dict, or iterable of pairs
        Layer -> :class:`crp.concepts.Concept`.
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
    target_key : str, default "labels"
        Where a dataset of dicts has the target.

    Attributes
    ----------
    RelMax, ActMax, RelStats, ActStats
        Their ``PATH`` is what ``load_maximization``, ``load_statistics`` and ``load_stat_targets`` take.

    References
    ----------
    R. Achtibat et al. (2023). From attribution maps to human-understandable explanations through Concept Relevance
    Propagation. Nature Machine Intelligence 5, 1006-1019.
    """

    def __init__(
        self,
        attribution: CondAttribution,
        dataset: Any,
        layer_map: Mapping[str, Concept] | Iterable[tuple[str, Concept]],
        preprocess_fn: Callable | None = None,
        max_target: str = "sum",
        abs_norm: bool = True,
        path: str | Path = "FeatureVisualization",
        device: str | torch.device | None = None,
        cache: Cache | None = None,
        *,
        target_key: str = "labels",
    ):
        check_max_target(max_target)
        check_dataset(dataset)
        if not isinstance(attribution, CondAttribution):
            raise TypeError(f"attribution is a CondAttribution(model), not a {type(attribution).__name__}")
        self.attribution, self.dataset, self.layer_map = attribution, dataset, as_layer_map(layer_map)
        self.preprocess_fn, self.max_target, self.abs_norm = preprocess_fn, max_target, abs_norm
        self.path = Path(path)
        self.device = attribution.device if device is None else torch.device(device)
        self.cache, self.target_key = cache, target_key
        self.RelMax, self.ActMax, self.RelStats, self.ActStats = (
            Results(self.path / results_name(quantity, kind, max_target, abs_norm))
            for kind in ("Max", "Stats") for quantity in QUANTITIES
        )

    # Samples; what users override

    def preprocess_data(self, data: Any) -> Any:
        """What the model sees of an input [1, ...]."""
        return data if self.preprocess_fn is None else self.preprocess_fn(data)

    def get_data_sample(self, index: int, preprocessing: bool = True) -> tuple[Any, Any]:
        """One sample of the dataset.

        Parameters
        ----------
        index : int
        preprocessing : bool, default True

        Returns
        -------
        data : torch.Tensor, tuple or dict
            With a batch axis of length 1, on the device.
        target
            As the dataset gives it.
        """
        return self._to_sample(self.dataset[index], preprocessing)

    def multitarget_to_single(self, multi_target: Any) -> list[int]:
        """The classes under which a sample is attributed, one pass each: all set bits of a multi-hot vector."""
        return list_targets(multi_target)

    def _to_sample(self, item, preprocessing):
        data, target = split_item(item, self.target_key)
        data = with_batch_axis(data)
        if preprocessing:
            data = self.preprocess_data(data)
        return map_tensors(lambda tensor: tensor.to(self.device), data), target

    def _load(
        self, start: int, stop: int, batch_size: int, num_workers: int = 0, on_error: str = "raise"
    ) -> Iterator[Batch]:
        """Preprocessed samples in batches; with ``on_error="skip"`` without those that cannot be had."""
        if type(self).get_data_sample is FeatureVisualization.get_data_sample:
            attempts = attempt_items(self.dataset, range(start, stop), batch_size, num_workers)
            make = self._to_sample
        else:
            attempts = (
                [(i, None) for i in range(first, min(first + batch_size, stop))]
                for first in range(start, stop, batch_size)
            )
            make = self.get_data_sample
        for first, items in zip(range(start, stop, batch_size), attempts):
            samples, skipped = {}, {}
            for index, (item, error) in enumerate(items, first):
                try:
                    if error is not None:
                        raise error
                    data, target = make(item, True)
                    targets = list(self.multitarget_to_single(target))
                    if min(targets, default=0) < 0:
                        raise ValueError(f"the target is {min(targets)}, but classes are numbered from 0")
                    samples[index] = data, targets
                except Exception as error:  # whatever users' functions raise
                    if on_error == "raise":
                        raise SampleError(index, error) from error
                    skipped[index] = describe_error(error)
            data = join_samples([data for data, _ in samples.values()], list(samples)) if samples else None
            yield Batch(list(samples), data, [targets for _, targets in samples.values()], skipped)

    # The sweep

    def run(
        self, composite: Composite, data_start: int, data_end: int, batch_size: int = 32, checkpoint: int = 500,
        on_device: str | torch.device | None = None, *, overwrite: bool = False, resume: bool = True,
        num_workers: int = 0, on_error: str = "raise", keep: str = "all", dtype: str = "float32",
        executor: Any = None, factory: Callable | None = None,
    ) -> ReferenceStore:
        """Sweep samples of the dataset and keep what each does to each concept.

        Done again with the same settings, it returns at once; broken off, it goes on after the last finished shard. On
        the same kind of device, with the same versions of libraries and number of threads, the store is the same to the
        bit, however it was interrupted and by how many workers it was made. Where memory runs out, a shard goes on with
        half the rows at a time.

        Parameters
        ----------
        composite : zennit.core.Composite
        data_start, data_end : int
            Range of samples; the end is exclusive.
        batch_size : int, default 32
        checkpoint : int, default 500
            Batches per shard of the store.
        on_device : str or torch.device, optional
            Where activations and relevances are moved to be read.
        overwrite : bool, default False
            Replace what another sweep left in the folder.
        resume : bool, default True
            Go on with an unfinished sweep; False refuses to.
        num_workers : int, default 0
            Processes that read the dataset.
        on_error : {"raise", "skip"}
            What to do about samples that the dataset cannot give, ``preprocess_fn`` not take, or whose targets are
            none: end with an error that names the sample, or leave it out and record that in ``store.skipped``.
        keep : {"all", "top"}
            "top" keeps the strongest 40 samples of each concept and the mean of each class, and no matrices: the size
            of the store does not grow with the dataset.
        dtype : {"float32", "float16"}
            Of the matrices. "float16" takes half the space: values then are wrong by at most 0.05 %, or 3e-8 of the
            sum of the absolute values in their row, whichever is more.
        executor : object, optional
            Anything with ``submit(function, *args)`` that returns something with ``result()``: a
            ``ProcessPoolExecutor``, loky, a ``dask.distributed.Client``. Its workers compute the shards, and write them
            to ``path``, which they must be able to reach. They use as many threads as this process is set to.
        factory : callable, optional
            Called once in each worker, for models and datasets that are better made there than sent there (cloudpickle
            does that otherwise), or lie on another device there. It gives (FeatureVisualization, composite), or a dict
            as :func:`crp.specs.visualization_of` takes.

        Returns
        -------
        ReferenceStore

        Raises
        ------
        StoreError
            If the folder holds a sweep with other settings; the message names them.
        SampleError
            If a sample cannot be had.
        """
        how = {
            "batch_size": batch_size, "checkpoint": checkpoint, "on_device": on_device, "num_workers": num_workers,
            "on_error": on_error, "keep": keep, "dtype": dtype,
        }
        sweep = self.sweep(composite, **how)
        workers = None if executor is None else Workers(executor, sweep, factory, how)
        return sweep.run(data_start, data_end, overwrite=overwrite, resume=resume, workers=workers)

    def run_distributed(
        self, composite: Composite, data_start: int, data_end: int, batch_size: int = 16, checkpoint: int = 500,
        on_device: str | torch.device | None = None, *, num_workers: int = 0,
    ) -> list[str]:
        """Sweep a part of the dataset, in this process or another one, on this machine or another one.

        After all parts, :meth:`collect_results` finishes the store.

        Parameters
        ----------
        composite, data_start, data_end, batch_size, checkpoint, on_device, num_workers
            As for :meth:`run`. All parts need the same batch_size and checkpoint.

        Returns
        -------
        list of str
            Names of the shards, for ``collect_results``.
        """
        sweep = self.sweep(
            composite, batch_size=batch_size, checkpoint=checkpoint, on_device=on_device, num_workers=num_workers
        )
        return sweep.run_part(data_start, data_end)

    def collect_results(
        self, checkpoints: Iterable[str] | None = None, d_index: tuple[int, int] | None = None
    ) -> ReferenceStore:
        """Finish a store that :meth:`run_distributed` filled.

        Parameters
        ----------
        checkpoints : iterable of str, optional
            Shards that must be there.
        d_index : (int, int), optional
            Range of samples that must be there.

        Returns
        -------
        ReferenceStore

        Raises
        ------
        StoreError
            If shards or samples are missing, or overlap.
        """
        shards = read_seal(self.path)["shards"] if is_sealed(self.path) else finished_shards(self.path)
        missing = [shard for shard in checkpoints or [] if shard not in shards]
        if missing:
            raise StoreError(f"{self.path} lacks the shards {missing}")
        check_complete(self.path, d_index)
        seal_store(self.path)
        return ReferenceStore(self.path)

    def sweep(
        self, composite: Composite, *, num_workers: int = 0, on_error: str = "raise", **options: Any
    ) -> Sweep:
        """The sweep that :meth:`run` runs, with its arguments, to see or run it shard by shard."""
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is 'raise' or 'skip', not {on_error!r}")
        return Sweep(
            self.attribution, self.layer_map, composite, self.path,
            lambda start, stop, size: self._load(
                start, stop, size, num_workers if stop - start > size else 0, on_error
            ),
            len(self.dataset), max_target=self.max_target, **options,
        )

    # References

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
            ``(inputs, heatmaps, rf) -> pictures``, such as ``crp.image.vis_opaque_img``. With None, the inputs and
            heatmaps themselves come back. Without composite there are no heatmaps to show: pictures of the inputs come
            back instead.
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
        """
        wanted = {concept: (concept, None) for concept in as_ids(concept_ids)}
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

    def compute_stats(
        self, concept_id: int, layer_name: str, mode: str = "relevance", top_N: int = 5, mean_N: int = 10,  # noqa: N803
        norm: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
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
            [top_N] classes, the best first.
        values : numpy.ndarray
            [top_N]
        """
        self._check_reference_arguments(layer_name, mode)
        if top_N < 1 or mean_N < 1:
            raise ValueError(f"top_N and mean_N are at least 1, not {top_N} and {mean_N}")
        targets, means = self._results(mode).class_means(
            layer_name, as_id(concept_id), mode, mean_N, statistic=self.max_target, normalised=self.abs_norm
        )
        best = np.argsort(-means, kind="stable")[:top_N]
        values = means[best]
        return targets[best], values / values[0] if norm and len(values) and values[0] != 0 else values

    # Patterns

    def find_patterns(self, layer_name: str, mode: str = "activation", **options) -> Patterns:
        """Cluster the samples by what a layer's concepts do in them, and keep the patterns in the store.

        Parameters
        ----------
        layer_name : str
        mode : {"activation", "relevance"}
        **options
            As for :func:`crp.patterns.find_patterns`.

        Returns
        -------
        Patterns
            ``store.patterns(layer_name, mode)`` reads them again.
        """
        self._check_reference_arguments(layer_name, mode)
        return find_store_patterns(self._matrices(mode), layer_name, mode, **options)

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
        first, stop = _check_range(r_range)
        _check_batch_size(batch_size)
        store = self._matrices(mode, composite)
        patterns = store.patterns(layer_name, mode)
        concepts = list(store.concepts(layer_name))
        references = {}
        for pattern in as_ids(pattern_ids):
            rows = patterns.most_stable(pattern, stop)[first:]
            if len(rows) == 0:
                raise ValueError(f"r_range starts at {first}, but pattern {pattern} has {patterns.sizes[pattern]} rows")
            found = References(patterns.samples[rows], patterns.probability[rows], np.zeros_like(rows))
            references[pattern] = (concepts, found)
        targets = None if targets is None else as_ids(targets)
        return self._pictures(references, layer_name, composite, False, plot_fn, batch_size, targets)

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

    def _results(self, mode: str, composite: Composite | None = None) -> ReferenceStore | LegacyResults:
        """What was found before, if it was found with what it is now read with.

        Raises
        ------
        StoreError
            If the model, the dataset or a concept is another one; where it is read for relevance, also if the
            attribution or the composite is.
        """
        if not is_sealed(self.path) and is_legacy_folder(self.path):
            return LegacyResults(self.path)
        store = ReferenceStore(self.path)
        try:
            check_reading(store, self._settings(mode, composite, known_passing(store.manifest)))
        except StoreError:
            if not self._pass_a_sample():
                raise
            check_reading(store, self._settings(mode, composite, known_passing(store.manifest)))
        return store

    def _settings(self, mode, composite, passing) -> dict:
        """What results of a mode depend on, as a store's manifest has it."""
        load = functools.partial(self._load, on_error="skip")
        settings = {
            "model": model_fingerprint(self.attribution.model, passing),
            "dataset": {"length": len(self.dataset), **describe_samples(load, len(self.dataset))},
            "layers": [{"name": name, "concept": describe_concept(item)} for name, item in self.layer_map.items()],
        }
        if mode == "relevance":
            settings["attribution"] = describe_attribution(self.attribution)
            if composite is not None:
                settings["composite"] = composite_fingerprint(composite, self.attribution.model)
        return settings

    def _pass_a_sample(self) -> bool:
        """Let the model make what it makes when it is first run, as it did in the sweep; whether that went well."""
        try:
            with torch.no_grad():
                call_model(self.attribution.model, self.get_data_sample(0)[0])
        except Exception:  # whatever a dataset or a model raises
            return False
        return True

    def _matrices(self, mode: str, composite: Composite | None = None) -> ReferenceStore:
        results = self._results(mode, composite)
        if not isinstance(results, ReferenceStore):
            raise StoreError(f"{self.path} was written by zennit-crp, which keeps no matrices: run the sweep again")
        return results

    def _check_reference_arguments(self, layer_name, mode):
        if mode not in QUANTITIES:
            raise ValueError(f"mode is 'relevance' or 'activation', not {mode!r}")
        if layer_name not in self.layer_map:
            raise ValueError(f"layer_map: {unknown_layer_message(layer_name, self.layer_map)}")

    def _references(
        self, wanted: dict, layer, mode, r_range, composite, rf, plot_fn, batch_size, targets, overwrite
    ) -> dict:
        """References by key: {key: (concept, class or None)}."""
        self._check_reference_arguments(layer, mode)
        first, stop = _check_range(r_range)
        _check_batch_size(batch_size)
        targets = None if targets is None else as_ids(targets)
        results = self._results(mode, composite)
        cache = self.cache if plot_fn is not None else None
        found, missing, key = {}, list(wanted), None
        if cache is not None:
            key = self._cache_key(results, layer, mode, r_range, composite, rf, plot_fn, targets)
            if not overwrite:
                found, missing = cache.load(missing, key)
        references = {}
        for reference_id in missing:
            concept, target = wanted[reference_id]
            top = results.top(
                layer, concept, mode, stop, target, statistic=self.max_target, normalised=self.abs_norm
            )
            if len(top.samples) <= first:
                where = "" if target is None else f" of class {target}"
                raise ValueError(f"r_range starts at {first}, but there are {len(top.samples)} references{where}")
            references[reference_id] = ([concept], References(*(part[first:] for part in top)))
        made = self._pictures(references, layer, composite, rf, plot_fn, batch_size, targets)
        if cache is not None:
            cache.save(made, key)
            made = cache.extend_dict(found, made)
        return {reference_id: made[reference_id] for reference_id in wanted}

    def _cache_key(self, results, layer, mode, r_range, composite, rf, plot_fn, targets) -> dict:
        """Everything beside the concept that changes a picture of its references."""
        passing = known_passing(results.manifest) if isinstance(results, ReferenceStore) else ()
        return {
            "results": results.identity(), "model": model_fingerprint(self.attribution.model, passing),
            "attribution": describe_attribution(self.attribution), "axis": self.attribution.heatmap_axis,
            "class": type(self).__name__,
            "samples": self._samples_fingerprint(),
            "layer": layer, "concept": fingerprint(self.layer_map[layer]), "mode": mode,
            "range": list(map(int, r_range)), "max_target": self.max_target, "abs_norm": self.abs_norm,
            "targets": targets, "rf": bool(rf),
            "composite": None if composite is None else fingerprint(composite), "plot_fn": fingerprint(plot_fn),
            "preprocess_fn": fingerprint(self.preprocess_fn),
        }

    def _samples_fingerprint(self) -> str:
        indices = probe_indices(len(self.dataset))
        return fingerprint([self.get_data_sample(i, preprocessing) for i in indices for preprocessing in (False, True)])

    def _pictures(self, references, layer, composite, rf, plot_fn, batch_size, targets) -> dict:
        used = sorted({int(i) for _, found in references.values() for i in found.samples})
        input_of = {i: self.get_data_sample(i, preprocessing=False)[0] for i in used}
        inputs = {
            key: self._join_or_list([input_of[int(i)] for i in found.samples])
            for key, (_, found) in references.items()
        }
        if composite is None:
            return inputs if plot_fn is None else {key: vis_inputs(data) for key, data in inputs.items()}
        heatmaps = self._heatmaps(references, layer, composite, rf, batch_size, targets)
        if plot_fn is None:
            return {key: (inputs[key], heatmaps[key]) for key in references}
        return {key: plot_fn(inputs[key], heatmaps[key], rf) for key in references}

    @staticmethod
    def _join_or_list(samples):
        """Samples in one tensor if they have one shape."""
        try:
            return join_samples(samples, list(range(len(samples))))
        except ValueError:
            return [map_tensors(lambda tensor: tensor[0], sample) for sample in samples]

    def _heatmaps(self, references, layer, composite, rf, batch_size, targets) -> dict:
        """Conditional heatmaps on reference samples. A sample that serves several concepts is run forward once."""
        concept_of_layer = self.layer_map[layer]
        by_sample: dict[int, list[_Wanted]] = {}
        for key, (concepts, found) in references.items():
            for slot, (sample, position) in enumerate(zip(found.samples.tolist(), found.positions.tolist())):
                condition = {layer: dict.fromkeys(concepts, position) if rf else concepts}
                if targets is not None:
                    condition[self.attribution.MODEL_OUTPUT_NAME] = targets
                by_sample.setdefault(sample, []).append(_Wanted(key, slot, condition))
        # samples with equally many concepts go together, so that no row of a pass stands idle
        ordered = sorted(by_sample, key=lambda sample: (-len(by_sample[sample]), sample))
        found = {}
        for first in range(0, len(ordered), batch_size):
            samples = ordered[first:first + batch_size]
            data = join_samples([self.get_data_sample(sample)[0] for sample in samples], samples)
            rounds = [
                [by_sample[sample][turn] if turn < len(by_sample[sample]) else None for sample in samples]
                for turn in range(len(by_sample[samples[0]]))
            ]
            results = self.attribution.attribute_rounds(
                data, [[None if item is None else item.condition for item in row] for row in rounds], composite,
                mask_map={layer: concept_of_layer.mask_rf if rf else concept_of_layer.mask},
                start_layer=layer if targets is None else None, exclude_parallel=False,
            )
            for row, result in zip(rounds, results, strict=True):
                for i, item in enumerate(item for item in row if item is not None):
                    found[item.key, item.slot] = map_tensors(lambda tensor, i=i: tensor[i:i + 1], result.heatmap)
        return {
            key: join_samples([found[key, slot] for slot in range(len(top.samples))], top.samples.tolist())
            for key, (_, top) in references.items()
        }


def _check_range(r_range: Any) -> tuple[int, int]:
    try:
        first, stop = (operator.index(end) for end in r_range)
    except TypeError:
        raise TypeError(f"r_range is a pair of integers (first, stop), not {r_range!r}") from None
    if not 0 <= first < stop:
        raise ValueError(f"r_range is (first, stop) with 0 <= first < stop, not {r_range}")
    return first, stop


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, not {batch_size}")
