"""A tiny member of each main family of Hugging Face's transformers, with random weights."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from architectures import SMALL, Architecture, opened, random_images, randomised
from zennit.composites import EpsilonPlus

from crp.composites import LanguageModel

LENGTH = 7
IDS = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LAYERS = {**SMALL, **IDS}
DECODER = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
           "d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, **IDS, "decoder_start_token_id": 1}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, **IDS}
GROUPED = {**LAYERS, "num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {**GROUPED, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
           "shared_expert_intermediate_size": 16}
LATENT = {**LAYERS, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
          "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 2,
          "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1}
STATE_SPACE = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, **IDS}
IMAGE = {**SMALL, "image_size": 32, "patch_size": 8}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
PYRAMID = {"depths": [1] * 4, "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 3, 4]}
WINDOWS = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
SPEECH = {**LAYERS, "conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2,
          "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0., "tdnn_dim": (16,),
          "tdnn_kernel": (3,), "tdnn_dilation": (1,), "classifier_proj_size": 16}

ENCODERS: dict[str, dict[str, Any]] = {
    "roberta": {}, "albert": {"embedding_size": 16}, "distilbert": {}, "electra": {"embedding_size": 16},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False},
    "mpnet": {}, "convbert": {"embedding_size": 16}, "squeezebert": {"embedding_size": 32}, "fnet": {},
    "modernbert": {"global_attn_every_n_layers": 2}, "roformer": {"embedding_size": 16}, "rembert": {},
    "nystromformer": {"segment_means_seq_len": LENGTH, "num_landmarks": LENGTH}, "megatron-bert": {},
    "xlm": {}, "esm": {"position_embedding_type": "rotary"},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16},
    "big_bird": {"attention_type": "original_full"}, "nomic_bert": {}, "eurobert": {"num_key_value_heads": 2},
    "flaubert": {}, "roc_bert": {"enable_pronunciation": False, "enable_shape": False}, "xlm-roberta-xl": {},
}
OTHER_ENCODERS: dict[str, dict[str, Any]] = {
    "ibert": LAYERS, "xlnet": {**LAYERS, "d_head": 8}, "longformer": {**LAYERS, "attention_window": 4},
    "funnel": {"d_model": 32, "d_inner": 64, "block_sizes": [1, 1], "n_head": 4, "d_head": 8, **IDS},
}
DECODERS: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]}, "gpt_neox": {}, "gptj": {"rotary_dim": 4},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32}, "bloom": {}, "falcon": {"new_decoder_architecture": True},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2}, "codegen": {"rotary_dim": 4}, "mistral": GROUPED,
    "qwen2": GROUPED, "gemma": GROUPED, "gemma2": GROUPED, "gemma3_text": GROUPED, "phi": {}, "phi3": GROUPED,
    "olmo": GROUPED, "olmo2": GROUPED, "stablelm": GROUPED, "starcoder2": GROUPED, "cohere": GROUPED, "glm": GROUPED,
    "granite": GROUPED, "nemotron": GROUPED, "smollm3": GROUPED, "diffllama": GROUPED, "nanochat": GROUPED,
    "ctrl": {"dff": 64}, "biogpt": {},
    "openai-gpt": {}, "gpt_bigcode": {}, "persimmon": {}, "bitnet": GROUPED,
    "gemma3n_text": {**GROUPED, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 8, "laurel_rank": 4,
                     "vocab_size_per_layer_input": 100, "layer_types": ["sliding_attention", "full_attention"],
                     "activation_sparsity_pattern": [0., 0.]},
}
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": EXPERTS, "qwen2_moe": EXPERTS, "qwen3_moe": EXPERTS, "olmoe": EXPERTS, "deepseek_v2": LATENT,
    "deepseek_v3": LATENT, "gpt_oss": EXPERTS, "phimoe": EXPERTS, "granitemoe": EXPERTS,
    "jetmoe": {**EXPERTS, "kv_channels": 8}, "llama4_text": {**EXPERTS, "intermediate_size_mlp": 64},
    "ernie4_5_moe": EXPERTS, "glm4_moe": {**EXPERTS, "n_routed_experts": 4},
}
STATE_SPACES: dict[str, dict[str, Any]] = {
    "mamba": STATE_SPACE, "mamba2": {**STATE_SPACE, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 4},
    "falcon_mamba": STATE_SPACE,
    "recurrent_gemma": {**GROUPED, "lru_width": 32, "attention_window_size": 8, "num_hidden_layers": 3},
    "rwkv": {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, **IDS},
    "jamba": {**EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
              "expert_layer_offset": 1, "mamba_d_state": 8, "use_mamba_kernels": False},
    "bamba": {**GROUPED, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 4,
              "attn_layer_indices": [1]},
    "zamba2": {**LAYERS, "num_key_value_heads": 4, "n_mamba_heads": 8, "mamba_d_state": 8, "hybrid_layer_ids": [1],
               "layer_types": ["mamba", "hybrid"], "chunk_size": 4, "adapter_rank": 4, "use_mamba_kernels": False},
    "falcon_h1": {**GROUPED, "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8,
                  "mamba_chunk_size": 4},
    "lfm2": {**GROUPED, "layer_types": ["conv", "full_attention"]},
    "qwen3_next": {**EXPERTS, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
                   "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"]},
    "minimax": {**EXPERTS, "layer_types": ["linear_attention", "full_attention"], "block_size": 4},
    "xlstm": {"hidden_size": 32, "embedding_dim": 32, "num_blocks": 2, "num_hidden_layers": 2, "num_heads": 4, **IDS},
}
ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "t5": T5, "mt5": T5, "umt5": T5, "longt5": {**T5, "local_radius": 3},
    "switch_transformers": {**T5, "num_experts": 2},
    "bart": DECODER, "mbart": DECODER, "pegasus": DECODER, "marian": DECODER, "blenderbot": DECODER, "m2m_100": DECODER,
    "led": {**DECODER, "attention_window": 4}, "nllb-moe": {**DECODER, "num_experts": 2, "encoder_sparse_step": 2},
    "prophetnet": {"hidden_size": 32, "num_encoder_layers": 2, "num_decoder_layers": 2,
                   "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4,
                   "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, **IDS},
}
VISION: dict[str, dict[str, Any]] = {
    "deit": IMAGE, "beit": IMAGE, "dinov2": IMAGE, "dinov2_with_registers": IMAGE, "ijepa": IMAGE, "vit_msn": IMAGE,
    "swin": WINDOWS, "swinv2": WINDOWS, "donut-swin": WINDOWS, "data2vec-vision": IMAGE,
    "hiera": {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1, 1, 2, 2], "image_size": [64, 64]},
    "cvt": {},
    "segformer": {**PYRAMID, "decoder_hidden_size": 16}, "pvt": {**PYRAMID, "image_size": 32},
    "pvt_v2": {**PYRAMID, "image_size": 32},
    "siglip": {"vision_config": IMAGE}, "clip": {"vision_config": {**IMAGE, "projection_dim": 16}},
}
CONVOLUTIONAL: dict[str, dict[str, Any]] = {
    "convnext": STAGES, "convnextv2": STAGES, "resnet": {**STAGES, "embedding_size": 8},
    "regnet": {**STAGES, "embedding_size": 8, "groups_width": 8}, "poolformer": STAGES,
    "mobilenet_v1": {"image_size": 64, "depth_multiplier": .25},
    "mobilenet_v2": {"image_size": 64, "depth_multiplier": .25},
    "mobilevit": {"image_size": 64}, "mobilevitv2": {"image_size": 64},
    "efficientnet": {"image_size": 64, "width_coefficient": .3, "depth_coefficient": .3, "hidden_dim": 384},
    "bit": {**STAGES, "embedding_size": 8, "num_groups": 4},
    "focalnet": {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3]},
    "swiftformer": {"depths": [1] * 4}, "hgnet_v2": {},
    "levit": {"hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 3, 4], "depths": [1] * 3, "key_dim": [8] * 3,
              "image_size": 64},
}
SPEECHES: dict[str, dict[str, Any]] = {
    "wav2vec2": SPEECH, "hubert": SPEECH, "wavlm": SPEECH, "unispeech-sat": SPEECH, "data2vec-audio": SPEECH,
    "wav2vec2-conformer": SPEECH, "sew": {**SPEECH, "squeeze_factor": 2}, "sew-d": {**SPEECH, "squeeze_factor": 2},
    "wav2vec2-bert": {**SPEECH, "feature_projection_input_dim": 16},
    "whisper": {**DECODER, "num_mel_bins": 16, "max_source_positions": 10, "classifier_proj_size": 16},
    "audio-spectrogram-transformer": {**SMALL, "num_mel_bins": 16, "max_length": 24, "patch_size": 8,
                                      "frequency_stride": 8, "time_stride": 8},
}
SOUNDS = {"wav2vec2-bert": (12, 16), "whisper": (16, 20), "audio-spectrogram-transformer": (24, 16)}
VIDEOS: dict[str, dict[str, Any]] = {
    "videomae": {**IMAGE, "num_frames": 4}, "timesformer": {**IMAGE, "num_frames": 2},
    "vivit": {**IMAGE, "num_frames": 4, "tubelet_size": [2, 8, 8]},
}


def _model(kind: str, name: str, options: dict[str, Any]) -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **options)
    config.num_labels, config.architectures, config.use_cache = 3, [], False
    model = opened(randomised(getattr(transformers, f"AutoModelFor{kind}").from_config(config)))
    model.config._experts_implementation = "eager"  # the others do not know float64
    return model


def _ids() -> torch.Tensor:
    return torch.randint(3, 100, (2, LENGTH))


def _of_text(kind: str, name: str, options: dict[str, Any]) -> Architecture:
    return Architecture(_model(kind, name, options), {"input_ids": _ids()}, LanguageModel(), "logits")


def _encoder_decoder(name: str, options: dict[str, Any]) -> Architecture:
    model = _model("Seq2SeqLM", name, options)
    return Architecture(model, {"input_ids": _ids(), "decoder_input_ids": _ids()}, LanguageModel(), "logits")


def _of_images(name: str, options: dict[str, Any], composite: type = LanguageModel) -> Architecture:
    model = _model("ImageClassification", name, options)
    size = getattr(getattr(model.config, "vision_config", model.config), "image_size", None) or 64
    size = size if isinstance(size, int) else size[0]
    return Architecture(model, {"pixel_values": random_images(size)}, composite(), "logits")


def _of_sounds(name: str, options: dict[str, Any]) -> Architecture:
    model = _model("AudioClassification", name, options)
    sounds = torch.randn(2, *SOUNDS.get(name, (400,)), dtype=torch.double)
    return Architecture(model, sounds, LanguageModel(), "logits")


def _of_videos(name: str, options: dict[str, Any]) -> Architecture:
    model = _model("VideoClassification", name, options)
    frames = torch.randn(2, options["num_frames"], 3, 32, 32, dtype=torch.double)
    return Architecture(model, frames, LanguageModel(), "logits")


def _all(build: Callable[..., Architecture], families: dict[str, dict[str, Any]], *first: str, **base: Any) -> dict:
    return {name: partial(build, *first, name, {**base, **options}) for name, options in families.items()}


FAMILIES: dict[str, Callable[[], Architecture]] = {
    **_all(_of_text, ENCODERS, "SequenceClassification", **LAYERS),
    **_all(_of_text, OTHER_ENCODERS, "SequenceClassification"), **_all(_of_text, DECODERS, "CausalLM", **LAYERS),
    **_all(_of_text, MIXTURES, "CausalLM"), **_all(_of_text, STATE_SPACES, "CausalLM"),
    **_all(_encoder_decoder, ENCODER_DECODERS), **_all(_of_images, VISION),
    **{name: partial(_of_images, name, options, EpsilonPlus) for name, options in CONVOLUTIONAL.items()},
    **_all(_of_sounds, SPEECHES), **_all(_of_videos, VIDEOS),
}
"""Name -> what builds it."""
