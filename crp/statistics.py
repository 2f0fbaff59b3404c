"""Where zennit-crp had ``Statistics``; its results come from the store now."""

raise ImportError(
    "crp.statistics is replaced by crp.store: FeatureVisualization.run writes matrices of all samples, and "
    "FeatureVisualization.compute_stats, ReferenceStore(path).top(..., target=...) or crp.helper.load_statistics "
    "answer from them. To change how a layer is analysed (analyze_layer), subclass crp.concepts.Concept and override "
    "read or reference_sampling"
)
