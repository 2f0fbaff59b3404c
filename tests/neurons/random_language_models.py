"""Small language models of Hugging Face with random weights."""
import torch
import transformers


def language_models():
    """Name -> (model, a layer of features on the last axis)."""
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2,
             "intermediate_size": 32, "max_position_embeddings": 32}
    torch.manual_seed(0)
    return {
        "bert": (transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, num_labels=3)),
                 "bert.encoder.layer.0.intermediate"),
        "gpt2": (transformers.GPT2LMHeadModel(transformers.GPT2Config(
            vocab_size=50, n_embd=16, n_head=4, n_layer=2, n_positions=32
        )), "transformer.h.0.mlp.act"),
        "llama": (transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)), "model.layers.0"),
        "t5": (transformers.T5ForConditionalGeneration(transformers.T5Config(
            vocab_size=50, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, decoder_start_token_id=0
        )), "encoder.block.0"),
    }
