"""The store: matrices of what every sample does to every concept, in a folder that numpy and a text editor can read.

::

    manifest.json                       format, versions, settings, layers
    shards/00000000/                    consecutive samples, named by the first
        relevance.rows.npy              sample, target, position, prediction of each row; activation.rows.npy likewise
        L0003.relevance.value.npy       [rows, concepts] sum over positions (.maximum: the largest value, if asked for)
        L0003.relevance.total.npy       [rows] sum of absolute values over the concepts (.maximum_total likewise)
        L0003.relevance.position.npy    [rows, concepts] flat index of the strongest position, if there are several
        shard.json                      size and sha256 of each file, sha256 of the manifest; skipped samples
    tables/L0003.relevance.value.npy    [concepts, 40] the top rows; .value_normalised likewise
    seal.json                           sha256 of all shards and tables: the store is complete
    patterns/L0003.activation.npz       clusters of the rows of a matrix, if they have been looked for

Nothing is pickled, so opening a store runs no code. The JSON files hold their own sha256, and that of the other files,
which are compared with it when they are first read.

A sweep with ``keep="top"`` leaves no shards: beside the top rows, ``tables`` then has the sums of each class
(``L0003.relevance.class_sum.npy`` [classes, concepts]; ``classes.npy`` and ``relevance.class_count.npy`` [classes]).
With ``dtype="float16"``, matrices hold each row divided by its total.

``reader``, ``matrix``, ``stored_arrays``   reads a finished store
``schema``, ``records``, ``files``    what records say and how they are written; names of files
``shards``, ``tables``, ``topk``      writes a store
``settings``, ``fingerprint``, ``user_code``   what decides the contents of a store, and how two of them differ
``verification``, ``export``             every byte checked; copies for other programs
``legacy``                            folders of zennit-crp
``archive``                           files of results beside a store
"""
from crp.store.export import export_parquet, export_zarr
from crp.store.files import QUANTITIES, ROW_DTYPE, TABLE_DEPTH, TABLE_DTYPE
from crp.store.folder import StoreError
from crp.store.matrix import ShardedMatrix
from crp.store.place import is_sealed, is_store
from crp.store.reader import ReferenceStore
from crp.store.references import References
from crp.store.schema import LayerEntry
from crp.store.verification import verify

__all__ = [
    "QUANTITIES", "ROW_DTYPE", "TABLE_DEPTH", "TABLE_DTYPE", "LayerEntry", "ReferenceStore", "References",
    "ShardedMatrix", "StoreError", "export_parquet", "export_zarr", "is_sealed", "is_store", "verify",
]
