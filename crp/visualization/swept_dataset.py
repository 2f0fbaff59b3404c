"""A dataset and a model whose concepts are swept: samples, and the sweep that writes a store of them."""
from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from zennit.core import Composite

from crp.attribution.conditional import CondAttribution
from crp.concepts import Concept, as_layer_map, check_max_target
from crp.model.inputs import map_tensors
from crp.model.positions import ATTENTION_MASK, PositionMask
from crp.model.samples import (
    as_sequence,
    attempt_items,
    attempt_to_split,
    check_preprocessed,
    rows_of_batch,
    split_item,
    with_batch_axis,
)
from crp.model.streams import Stream
from crp.model.successors import is_overridden
from crp.model.targets import list_targets
from crp.store.folder import StoreError
from crp.store.place import is_sealed, place_of_store
from crp.store.reader import ReferenceStore
from crp.store.sealing import seal_store
from crp.store.shards import check_complete, finished_shards
from crp.store.user_code import is_of_library
from crp.sweeps.batches import Batch
from crp.sweeps.loading import load_batches
from crp.sweeps.sweep import Sweep
from crp.sweeps.workers import Workers
from crp.visualization.specification import SweepSpec


class SweptDataset:
    """Samples of a dataset as a model takes them, and the sweep over them.

    The parameters are those of :class:`crp.visualization.FeatureVisualization`.
    """

    def __init__(
        self, attribution: CondAttribution, dataset: Any,
        layer_map: Mapping[str, Concept] | Iterable[tuple[str, Concept]] | Iterable[str],
        preprocess_fn: Callable | None, max_target: str, abs_norm: bool, path: str | Path,
        device: str | torch.device | None, target_key: str | None, start_layer: str | None = None, y: Any = None,
        position_mask: PositionMask = ATTENTION_MASK, collate_fn: Callable | None = None,
        class_names: Sequence[str] | None = None,
    ):
        check_max_target(max_target)
        dataset = as_sequence(dataset)
        if not isinstance(attribution, CondAttribution):
            raise TypeError(f"attribution is a CondAttribution(model), not a {type(attribution).__name__}")
        self.attribution, self.dataset, self.layer_map = attribution, dataset, as_layer_map(layer_map)
        self.preprocess_fn, self.max_target, self.abs_norm = preprocess_fn, max_target, abs_norm
        self.path = Path(path)
        self.device = attribution.device if device is None else torch.device(device)
        self.target_key, self.start_layer, self.y = target_key, start_layer, y
        self.position_mask, self.collate_fn = position_mask, collate_fn
        known = getattr(dataset, "classes", None)
        names = known if class_names is None and isinstance(known, (list, tuple)) else class_names
        self.class_names = None if names is None else list(names)

    @classmethod
    def from_spec(cls, made: Any) -> tuple[SweptDataset, Composite]:
        """What a specifying function gives, ready for a sweep.

        Parameters
        ----------
        made : (FeatureVisualization, zennit.core.Composite), or dict
            A dict as :class:`crp.visualization.specification.SweepSpec` describes it.

        Raises
        ------
        TypeError, ValueError
            If it is something else.
        """
        if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], SweptDataset):
            return made
        spec = SweepSpec.of(made)
        swept = cls(
            spec.attribution(), spec.dataset, spec.layers, spec.preprocess_fn, spec.max_target, spec.abs_norm,
            spec.path, spec.device, **spec.of_samples(),
        )
        return swept, spec.composite

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
        return self._to_sample(self._split([self.dataset[index]])[0], preprocessing)

    def multitarget_to_single(self, multi_target: Any) -> list[int]:
        """The classes under which a sample is attributed, one pass each: see ``crp.model.targets.list_targets``."""
        return list_targets(multi_target, self.class_names)

    def _split(self, items: list[Any]) -> list[tuple[Any, Any]]:
        """Inputs with a batch axis, and targets, of items of the dataset."""
        if self.collate_fn is not None:
            return rows_of_batch(split_item(self.collate_fn(items), self.target_key), len(items))
        pairs = [split_item(item, self.target_key) for item in items]
        return [(with_batch_axis(data), target) for data, target in pairs]

    def _to_sample(self, pair: tuple[Any, Any], preprocessing: bool) -> tuple[Any, Any]:
        data, target = pair
        if preprocessing:
            data = self.preprocess_data(map_tensors(torch.clone, data))  # which may write to it, not to the dataset
            check_preprocessed(data)
        return map_tensors(lambda tensor: tensor.to(self.device), data), target

    def batches(
        self, start: int, stop: int, batch_size: int, num_workers: int = 0, on_error: str = "raise"
    ) -> Iterator[Batch]:
        """Preprocessed samples in batches; with ``on_error="skip"`` without those that cannot be had."""
        if not is_overridden(self, "get_data_sample", SweptDataset):
            read = attempt_items(self.dataset, range(start, stop), batch_size, num_workers)
            attempts = (attempt_to_split(items, self._split, self.collate_fn is not None) for items in read)
            make = functools.partial(self._to_sample, preprocessing=True)
        else:
            attempts = (
                [(i, None) for i in range(first, min(first + batch_size, stop))]
                for first in range(start, stop, batch_size)
            )
            make = functools.partial(self.get_data_sample, preprocessing=True)
        return load_batches(attempts, start, make, self.multitarget_to_single, on_error)

    # The sweep

    def run(
        self, composite: Composite, data_start: int = 0, data_end: int | None = None, batch_size: int = 32,
        checkpoint: int = 500, on_device: str | torch.device | None = None, *, overwrite: bool = False,
        resume: bool = True, num_workers: int = 0, on_error: str = "raise", keep: str = "all", dtype: str = "float32",
        rows: str = "samples", executor: Any = None, factory: Callable | None = None,
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
            Range of samples; the end is exclusive. By default the whole dataset.
        batch_size : int, default 32
        checkpoint : int, default 500
            Batches per shard of the store.
        on_device : str or torch.device, optional
            Where activations and relevances are moved to be read.
        overwrite : bool, default False
            Replace the sweep that the store holds: the new one is written beside it, and takes its place when it has
            finished. Broken off, the same call goes on.
        resume : bool, default True
            Go on with an unfinished sweep; False refuses to.
        num_workers : int, default 0
            Processes that read the dataset.
        on_error : {"raise", "skip"}
            What to do about samples that the dataset cannot give, ``preprocess_fn`` not take, whose targets are none
            of the model, whose shape or type most others of their batch do not have, or with which the model fails:
            end with an error that names the sample, or leave it out and record that in ``store.skipped``.
        keep : {"all", "top"}
            "top" keeps the strongest 40 samples of each concept and the mean of each class, and no matrices: the size
            of the store does not grow with the dataset.
        dtype : {"float32", "float16"}
            Of the matrices. "float16" takes half the space: values then are wrong by at most 0.05 %, or 3e-8 of the
            sum of the absolute values in their row, whichever is more.
        rows : {"samples", "positions"}
            "positions" keeps a row for each position of a sample, such as a token, instead of one for their sum:
            rankings, patterns and references are then of tokens. Positions that ``position_mask`` hides have none.
        executor : object, optional
            Anything with ``submit(function, *args)`` that returns something with ``result()``: a
            ``ProcessPoolExecutor``, loky, a ``dask.distributed.Client``. Its workers compute the shards, and write them
            to ``path``, which they must be able to reach. They use as many threads as this process is set to. Pools
            that fork this process are refused where it has several; ``multiprocessing.get_context("spawn")`` does not.
        factory : callable, optional
            Called once in each worker, for models and datasets that are better made there than sent there (cloudpickle
            does that otherwise), or lie on another device there. It gives (FeatureVisualization, composite), or a dict
            as :meth:`from_spec` takes.

        Returns
        -------
        ReferenceStore

        Raises
        ------
        StoreError
            If the folder holds a sweep with other settings; the message names them.
        SampleError
            If a sample cannot be had.
        RuntimeError
            If a worker died.
        """
        data_end = len(self.dataset) if data_end is None else data_end
        if self._sweeps_in_its_own_way():
            given = overwrite, resume, num_workers, on_error, keep, dtype, rows, executor, factory
            if given != (False, True, 0, "raise", "all", "float32", "samples", None, None):
                raise TypeError("run_distributed or collect_results is overridden, and takes none of run's keywords")
            return self._run_in_its_own_way(composite, data_start, data_end, batch_size, checkpoint, on_device)
        how: dict[str, Any] = {
            "batch_size": batch_size, "checkpoint": checkpoint, "on_device": on_device, "num_workers": num_workers,
            "on_error": on_error, "keep": keep, "dtype": dtype, "rows": rows,
        }
        sweep = self.sweep(composite, **how)
        workers = None
        if executor is not None:
            cls = next(cls for cls in type(self).__mro__ if is_of_library(cls))
            workers = Workers(executor, sweep, factory and functools.partial(_sweep_made_by, factory, cls, how))
        store = sweep.run(data_start, data_end, overwrite=overwrite, resume=resume, workers=workers)
        self._show(store)
        return store

    def _sweeps_in_its_own_way(self) -> bool:
        return any(is_overridden(self, name, SweptDataset) for name in ("run_distributed", "collect_results"))

    def _run_in_its_own_way(self, composite: Composite, data_start: int, data_end: int, *how: Any) -> ReferenceStore:
        """Sweep with the methods of a subclass, as zennit-crp's ``run`` does."""
        if is_sealed(self.path):
            batch_size, checkpoint, on_device = how
            sweep = self.sweep(composite, batch_size=batch_size, checkpoint=checkpoint, on_device=on_device)
            return sweep.run(data_start, data_end)
        return self.collect_results(self.run_distributed(composite, data_start, data_end, *how))

    def _swept_statistic(self) -> str:
        """The statistic over positions that is asked for."""
        return self.max_target

    def _show(self, store: ReferenceStore) -> None:
        """What follows when a sweep has finished."""

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
        place = place_of_store(self.path)
        shards = place.seal()[0].shards if place.is_sealed() else finished_shards(place)
        missing = [shard for shard in checkpoints or [] if shard not in shards]
        if missing:
            raise StoreError(f"{self.path} lacks the shards {missing}")
        check_complete(place, d_index)
        seal_store(place)
        store = ReferenceStore.at(place)
        self._show(store)
        return store

    def sweep(
        self, composite: Composite, *, num_workers: int = 0, on_error: str = "raise", **options: Any
    ) -> Sweep:
        """The sweep that :meth:`run` runs, with its arguments, to see or run it shard by shard."""
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is 'raise' or 'skip', not {on_error!r}")
        if isinstance(self.dataset, Stream) and num_workers:
            raise ValueError("a stream is read by one process, from the start: num_workers=0")
        return Sweep(
            self.attribution, self.layer_map, composite, self.path,
            lambda start, stop, size: self.batches(
                start, stop, size, num_workers if stop - start > size else 0, on_error
            ),
            len(self.dataset), max_target=self._swept_statistic(), on_error=on_error,
            start_layer=self.start_layer, y=self.y, position_mask=self.position_mask,
            among_counting=self.collate_fn is not None, probed=self.probed, **options,
        )

    @property
    def probed(self) -> int:
        """Among how many samples some are read that stand for all; streams are not read to the end for that."""
        return min(len(self.dataset), 5) if isinstance(self.dataset, Stream) else len(self.dataset)


def _sweep_made_by(factory: Callable, cls: type[SweptDataset], how: dict[str, Any]) -> Sweep:
    visualization, composite = cls.from_spec(factory())
    return visualization.sweep(composite, **how)
