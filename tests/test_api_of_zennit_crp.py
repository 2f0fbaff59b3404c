"""Names, order and defaults of arguments are those that code written for zennit-crp relies on."""
import inspect

import pytest

from crp import attribution, cache, concepts, graph, helper, hooks, image, visualization

REQUIRED = inspect.Parameter.empty
MASK = concepts.ChannelConcept.mask
FV = visualization.FeatureVisualization
REFERENCE = {
    "mode": "relevance", "r_range": (0, 8), "composite": None, "rf": False, "plot_fn": image.vis_img_heatmap,
    "batch_size": 32,
}
CALL = {
    "data": REQUIRED, "conditions": REQUIRED, "composite": None, "record_layer": [], "mask_map": MASK,
    "start_layer": None, "init_rel": None,
}
COLOURS = {"cmap": "bwr", "vmin": None, "vmax": None}
API = [
    (attribution.CondAttribution, {
        "model": REQUIRED, "device": None, "overwrite_data_grad": True, "no_param_grad": True,
    }),
    (attribution.CondAttribution.__call__, {**CALL, "on_device": None, "exclude_parallel": True}),
    (attribution.CondAttribution.generate, {
        **CALL, "batch_size": 10, "on_device": None, "exclude_parallel": True, "verbose": True,
    }),
    (attribution.CondAttribution.relevance_init, dict.fromkeys(["prediction", "target_list", "init_rel"], REQUIRED)),
    (attribution.CondAttribution.heatmap_modifier, {"data": REQUIRED, "on_device": None}),
    (attribution.CondAttribution.broadcast, {"data": REQUIRED, "conditions": REQUIRED}),
    (attribution.CondAttribution.backward, {
        **dict.fromkeys(["pred", "grad_mask", "partial_backward", "layer_names", "layer_out"], REQUIRED),
        "generate": False,
    }),
    (attribution.AttributionGraph, dict.fromkeys(["attribution", "graph", "layer_map"], REQUIRED)),
    (attribution.AttributionGraph.__call__, {
        "sample": REQUIRED, "composite": REQUIRED, "concept_id": REQUIRED, "layer_name": REQUIRED, "target": None,
        "width": [4, 2], "parent_c_id": None, "parent_layer": None, "abs_norm": True, "batch_size": 16, "verbose": True,
    }),
    (concepts.ChannelConcept.attribute, {"relevance": REQUIRED, "mask": None, "layer_name": None, "abs_norm": True}),
    (concepts.ChannelConcept.reference_sampling, {
        "relevance": REQUIRED, "layer_name": None, "max_target": "sum", "abs_norm": True,
    }),
    (graph.trace_model_graph, {**dict.fromkeys(["model", "sample", "layer_names"], REQUIRED), "debug": False}),
    (FV, {
        "attribution": REQUIRED, "dataset": REQUIRED, "layer_map": REQUIRED, "preprocess_fn": None,
        "max_target": "sum", "abs_norm": True, "path": "FeatureVisualization", "device": None, "cache": None,
    }),
    (FV.run, {
        **dict.fromkeys(["composite", "data_start", "data_end"], REQUIRED), "batch_size": 32, "checkpoint": 500,
        "on_device": None,
    }),
    (FV.run_distributed, {
        **dict.fromkeys(["composite", "data_start", "data_end"], REQUIRED), "batch_size": 16, "checkpoint": 500,
        "on_device": None,
    }),
    (FV.get_max_reference, {"concept_ids": REQUIRED, "layer_name": REQUIRED, **REFERENCE}),
    (FV.get_stats_reference, {**dict.fromkeys(["concept_id", "layer_name", "targets"], REQUIRED), **REFERENCE}),
    (FV.compute_stats, {
        "concept_id": REQUIRED, "layer_name": REQUIRED, "mode": "relevance", "top_N": 5, "mean_N": 10, "norm": False,
    }),
    (FV.precompute_ref, {
        "layer_c_ind": REQUIRED, "composite": REQUIRED, "rf": True, "stats": False, "top_N": 4, "mean_N": 10,
        "mode": "relevance", "r_range": (0, 8), "plot_list": [image.vis_opaque_img], "batch_size": 32,
    }),
    (FV.multitarget_to_single, {"multi_target": REQUIRED}),
    (FV.get_data_sample, {"index": REQUIRED, "preprocessing": True}),
    (cache.ImageCache, {"path": "cache"}),
    (image.imgify, {
        "image": REQUIRED, **COLOURS, "symmetric": False, "level": 1.0, "grid": False, "gridfill": None, "resize": None,
        "padding": False,
    }),
    (image.vis_opaque_img, {
        "data_batch": REQUIRED, "heatmaps": REQUIRED, "rf": False, "alpha": 0.3, "vis_th": 0.2, "crop_th": 0.1,
        "kernel_size": 19,
    }),
    (image.vis_img_heatmap, {
        "data_batch": REQUIRED, "heatmaps": REQUIRED, "rf": False, "crop_th": 0.1, "kernel_size": 19, **COLOURS,
        "symmetric": True,
    }),
    (image.plot_grid, {
        "ref_c": REQUIRED, "cmap_dim": 1, **COLOURS, "symmetric": True, "resize": None, "padding": True,
        "figsize": (6, 6),
    }),
    (image.get_crop_range, {"heatmap": REQUIRED, "crop_th": REQUIRED}),
    (helper.get_layer_names, {"model": REQUIRED, "types": REQUIRED}),
    (helper.get_output_shapes, dict.fromkeys(["model", "single_sample", "record_layers"], REQUIRED)),
    (hooks.MaskHook, {"fn_list": REQUIRED}),
]


@pytest.mark.parametrize("function, expected", API, ids=[function.__qualname__ for function, _ in API])
def test_arguments(function, expected):
    parameters = [
        (name, parameter.default) for name, parameter in inspect.signature(function).parameters.items()
        if name != "self" and parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    assert parameters == list(expected.items())


def test_names_that_code_imports_are_there():
    assert attribution.CondAttribution.MODEL_OUTPUT_NAME == "y"
    for name in ("abs_norm", "max_norm", "load_maximization", "load_statistics", "load_stat_targets", "find_files"):
        assert callable(getattr(helper, name))
    for name in ("mask", "mask_rf", "get_rf_indices", "attribute", "reference_sampling"):
        assert callable(getattr(concepts.Concept, name)) and callable(getattr(concepts.ChannelConcept, name))
    for name in ("save", "load", "extend_dict"):
        assert callable(getattr(cache.Cache, name))
    assert hooks.FeatVisHook and graph.ModelGraph.find_input_layers and graph.ModelGraph.set_layer_names
