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
    patterns/L0003.activation.json      names a file beside it, with clusters of the rows of a matrix; rankings likewise

A sweep that replaced another one lies in a folder ``sweep-...`` of the store, which its ``manifest.json`` names.

Nothing is pickled, so opening a store runs no code. The JSON files hold their own sha256, and that of the other files,
which are compared with it when they are first read. No file is reached through a link, nor read before its type and
size are those that the manifest says.

A sweep with ``keep="top"`` leaves no shards: beside the top rows, ``tables`` then has the sums of each class
(``L0003.relevance.class_sum.npy`` [classes, concepts]; ``classes.npy`` and ``relevance.class_count.npy`` [classes]).
With ``dtype="float16"``, matrices hold each row divided by its total. With ``rows="positions"``, rows are positions of
samples, such as tokens, which ``rows.npy`` numbers, and there are no files of positions.

From bottom to top:

``files``, ``folder``, ``temporaries``      names of files; folders without links; what is there while a process writes
``records``, ``npy``, ``archive``           formats: JSON with a hash, arrays, files of results
``schema``, ``layout``, ``place``           what records say, which arrays there are, where a sweep lies
``stored_arrays``, ``matrix``, ``reader``   reads a finished store
``attached``                                patterns kept in a store
``contents``                                what arrays may hold
``legacy``, ``foreign``                     folders of zennit-crp; arrays of other programs
``results``, ``views``                      answers in the form of zennit-crp, and its files, written from a store
``shards``, ``tables``, ``topk``            writes shards and tables
``settings``, ``fingerprint``, ``user_code``   what decides the contents of a store, and how two of them differ
``creation``, ``runs``, ``sealing``         begins, shares and finishes a store, or replaces what it holds
``verification``, ``export``                every byte checked; copies for other programs
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
