"""Stage: rotation frequencies and cosines of every scaling at real sizes, from transformers' own rotary embedding."""
import os

from common import fresh_dir, save_tensors, torch_setup, write_jsonl

HERE = os.path.dirname(os.path.abspath(__file__))
POSITIONS = [0, 1, 2, 31, 1000, 4095, 4096, 32767, 100000, 131071]


def config(arch, model_type, D, H, theta, most, **kw):
    return dict({"architectures": [arch], "model_type": model_type, "hidden_size": D, "intermediate_size": 64,
                 "num_hidden_layers": 1, "num_attention_heads": H, "num_key_value_heads": 1, "vocab_size": 64,
                 "hidden_act": "silu", "max_position_embeddings": most, "rope_theta": theta,
                 "tie_word_embeddings": True}, **kw)


LISTS = {"short_factor": [1 + 0.02 * j for j in range(48)], "long_factor": [1 + 0.03 * j * j for j in range(48)]}
CASES = [
    config("Qwen3ForCausalLM", "qwen3", 2560, 32, 5000000, 262144, head_dim=128),
    config("LlamaForCausalLM", "llama", 4096, 32, 500000.0, 131072, rope_scaling={
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        "rope_type": "llama3"}),
    config("LlamaForCausalLM", "llama", 2048, 32, 500000.0, 131072, head_dim=64, rope_scaling={
        "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        "rope_type": "llama3"}),
    config("Qwen2ForCausalLM", "qwen2", 1536, 12, 1000000.0, 131072, rope_scaling={
        "factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}),
    config("LlamaForCausalLM", "llama", 4096, 32, 10000.0, 16384, rope_scaling={"factor": 4.0, "type": "linear"}),
    config("Phi3ForCausalLM", "phi3", 3072, 32, 10000.0, 131072, original_max_position_embeddings=4096,
           rope_scaling=dict(LISTS, type="longrope"), pad_token_id=0),
]


def rotary(cfg):
    import transformers as t
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
    from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding
    kinds = {"llama": LlamaRotaryEmbedding, "phi3": Phi3RotaryEmbedding, "qwen2": Qwen2RotaryEmbedding,
             "qwen3": Qwen3RotaryEmbedding}
    return kinds[cfg["model_type"]](t.AutoConfig.for_model(**{k: v for k, v in cfg.items() if k != "architectures"}))


def main(_names=None):
    import torch
    torch_setup()
    tensors, x = {"positions": torch.tensor(POSITIONS)}, torch.zeros(1)
    for k, cfg in enumerate(CASES):
        for n in range(2 if cfg["model_type"] == "phi3" else 1):        # a short sequence, then a long one
            r = rotary(cfg)
            top = 4096 if cfg["model_type"] == "phi3" and n == 0 else 1 << 30
            pos = torch.tensor([[p for p in POSITIONS if p < top]])
            cos, sin = r(x, pos)
            half = cos.shape[-1] // 2
            tensors["inv.%d.%d" % (k, n)] = r.inv_freq.clone()
            tensors["cos.%d.%d" % (k, n)] = cos[0, :, :half].contiguous()
            tensors["sin.%d.%d" % (k, n)] = sin[0, :, :half].contiguous()
    out = fresh_dir(os.path.join(HERE, "rope"))
    write_jsonl(os.path.join(out, "configs.jsonl"), CASES)
    save_tensors(os.path.join(out, "tables.safetensors"), tensors)


if __name__ == "__main__":
    main()
