"""Where zennit-crp had ``Maximization``; its results come from the store now."""

raise ImportError(
    "crp.maximization is replaced by crp.store: FeatureVisualization.run writes matrices of all samples, and "
    "ReferenceStore(path).top(layer, concept) or crp.helper.load_maximization answer from them. To change how a layer "
    "is analysed (analyze_layer), subclass crp.concepts.Concept and override read or reference_sampling"
)
