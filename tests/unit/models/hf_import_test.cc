#include "models/hf_import.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/params.h"
#include "tests/unit/models/testing.h"

namespace simrun {
namespace {

using testing::HasSubstr;

struct Case {
  const char* model;  // catalogue entry with the same dimensions
  const char* config;
};

// The fields of the published config.json files that matter here, with a few that do not.
const Case kCases[] = {
    {"llama-2-70b",
     R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 8192,
      "intermediate_size": 28672, "max_position_embeddings": 4096, "num_attention_heads": 64, "num_hidden_layers": 80,
      "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null,
      "tie_word_embeddings": false, "torch_dtype": "float16", "vocab_size": 32000})"},
    {"llama-3.2-1b",
     R"({"model_type": "llama", "attention_bias": false, "head_dim": 64, "hidden_size": 2048, "intermediate_size": 8192,
      "max_position_embeddings": 131072, "mlp_bias": false, "num_attention_heads": 32, "num_hidden_layers": 16,
      "num_key_value_heads": 8, "rope_scaling": {"factor": 32.0, "rope_type": "llama3"}, "tie_word_embeddings": true,
      "torch_dtype": "bfloat16", "vocab_size": 128256})"},
    {"yi-34b", R"({"model_type": "Yi", "hidden_size": 7168, "intermediate_size": 20480, "max_position_embeddings": 4096,
      "num_attention_heads": 56, "num_hidden_layers": 60, "num_key_value_heads": 8, "torch_dtype": "bfloat16", "vocab_size": 64000})"},
    {"internlm-20b", R"({"model_type": "internlm", "bias": false, "hidden_size": 5120, "intermediate_size": 13824,
      "max_position_embeddings": 4096, "num_attention_heads": 40, "num_hidden_layers": 60, "num_key_value_heads": 40,
      "torch_dtype": "bfloat16", "vocab_size": 103168, "tie_word_embeddings": false})"},
    {"llama-4-maverick-17b-128e",
     R"({"model_type": "llama4", "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1408},
      "text_config": {"model_type": "llama4_text", "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
      "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 202048,
      "max_position_embeddings": 1048576, "num_local_experts": 128, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2,
      "attention_chunk_size": 8192, "no_rope_layers": [], "attention_bias": false, "tie_word_embeddings": false, "use_qk_norm": false}})"},
    {"llama-4-scout-17b-16e",
     R"({"model_type": "llama4", "text_config": {"model_type": "llama4_text", "hidden_size": 5120,
      "intermediate_size": 8192, "intermediate_size_mlp": 16384, "num_hidden_layers": 48, "num_attention_heads": 40,
      "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 202048, "max_position_embeddings": 10485760, "num_local_experts": 16,
      "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "attention_chunk_size": 8192, "torch_dtype": "bfloat16"}})"},
    {"mistral-7b-v0.1",
     R"({"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
      "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "sliding_window": 4096,
      "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 32000})"},
    {"mistral-7b-v0.3",
     R"({"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
      "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "sliding_window": null,
      "torch_dtype": "bfloat16", "vocab_size": 32768})"},
    {"mixtral-8x7b",
     R"({"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
      "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
      "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 32000})"},
    {"qwen2.5-7b",
     R"({"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "max_position_embeddings": 32768,
      "max_window_layers": 28, "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "sliding_window": 131072,
      "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 152064})"},
    {"qwen1.5-moe-a2.7b",
     R"({"model_type": "qwen2_moe", "decoder_sparse_step": 1, "hidden_size": 2048, "intermediate_size": 5632,
      "max_position_embeddings": 8192, "moe_intermediate_size": 1408, "num_attention_heads": 16, "num_experts": 60,
      "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 16, "shared_expert_intermediate_size": 5632,
      "sliding_window": 32768, "use_sliding_window": false, "torch_dtype": "bfloat16", "vocab_size": 151936})"},
    {"qwen3-0.6b",
     R"({"model_type": "qwen3", "attention_bias": false, "head_dim": 128, "hidden_size": 1024, "intermediate_size": 3072,
      "max_position_embeddings": 40960, "max_window_layers": 28, "num_attention_heads": 16, "num_hidden_layers": 28,
      "num_key_value_heads": 8, "sliding_window": null, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
      "use_sliding_window": false, "vocab_size": 151936})"},
    {"qwen3-next-80b-a3b", R"({"model_type": "qwen3_next", "decoder_sparse_step": 1, "full_attention_interval": 4, "head_dim": 256,
      "hidden_size": 2048, "intermediate_size": 5120, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
      "linear_num_value_heads": 32, "linear_value_head_dim": 128, "max_position_embeddings": 262144, "mlp_only_layers": [],
      "moe_intermediate_size": 512, "num_attention_heads": 16, "num_experts": 512, "num_experts_per_tok": 10, "num_hidden_layers": 48,
      "num_key_value_heads": 2, "partial_rotary_factor": 0.25, "shared_expert_intermediate_size": 512, "tie_word_embeddings": false,
      "torch_dtype": "bfloat16", "vocab_size": 151936})"},
    {"qwen3.5-397b-a17b", R"({"model_type": "qwen3_5_moe", "tie_word_embeddings": false, "vision_config": {"depth": 27}, "text_config": {
      "model_type": "qwen3_5_moe_text", "attn_output_gate": true, "dtype": "bfloat16", "full_attention_interval": 4, "head_dim": 256,
      "hidden_size": 4096, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
      "linear_num_value_heads": 64, "linear_value_head_dim": 128, "mamba_ssm_dtype": "float32", "max_position_embeddings": 262144,
      "moe_intermediate_size": 1024, "num_attention_heads": 32, "num_experts": 512, "num_experts_per_tok": 10, "num_hidden_layers": 60,
      "num_key_value_heads": 2, "shared_expert_intermediate_size": 1024, "vocab_size": 248320}})"},
    {"qwen3.5-27b", R"({"model_type": "qwen3_5", "tie_word_embeddings": false, "text_config": {
      "model_type": "qwen3_5_text", "dtype": "bfloat16", "head_dim": 256, "hidden_size": 5120, "intermediate_size": 17408,
      "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 48,
      "linear_value_head_dim": 128, "mamba_ssm_dtype": "float32", "max_position_embeddings": 262144, "num_attention_heads": 24,
      "num_hidden_layers": 64, "num_key_value_heads": 4, "vocab_size": 248320}})"},
    {"deepseek-v3.2", R"({"model_type": "deepseek_v32", "first_k_dense_replace": 3, "hidden_size": 7168, "index_head_dim": 128,
      "index_n_heads": 64, "index_topk": 2048, "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 163840,
      "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_routed_experts": 256, "n_shared_experts": 1, "num_attention_heads": 128,
      "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
      "qk_rope_head_dim": 64, "quantization_config": {"quant_method": "fp8"}, "torch_dtype": "bfloat16", "v_head_dim": 128,
      "vocab_size": 129280})"},
    {"glm-5", R"({"model_type": "glm_moe_dsa", "first_k_dense_replace": 3, "head_dim": 64, "hidden_size": 6144, "index_head_dim": 128,
      "index_n_heads": 32, "index_topk": 2048, "intermediate_size": 12288, "kv_lora_rank": 512, "max_position_embeddings": 202752,
      "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1, "num_attention_heads": 64,
      "num_experts_per_tok": 8, "num_hidden_layers": 78, "num_key_value_heads": 64, "q_lora_rank": 2048, "qk_nope_head_dim": 192,
      "qk_rope_head_dim": 64, "torch_dtype": "bfloat16", "v_head_dim": 256, "vocab_size": 154880})"},
    {"qwen3-30b-a3b", R"({"model_type": "qwen3_moe", "attention_bias": false, "decoder_sparse_step": 1, "head_dim": 128,
      "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 40960, "mlp_only_layers": [],
      "moe_intermediate_size": 768, "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
      "num_key_value_heads": 4, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 151936})"},
    {"deepseek-v2-lite",
     R"({"model_type": "deepseek_v2", "first_k_dense_replace": 1, "hidden_size": 2048, "intermediate_size": 10944,
      "kv_lora_rank": 512, "max_position_embeddings": 163840, "moe_intermediate_size": 1408, "moe_layer_freq": 1,
      "n_routed_experts": 64, "n_shared_experts": 2, "num_attention_heads": 16, "num_experts_per_tok": 6, "num_hidden_layers": 27,
      "num_key_value_heads": 16, "q_lora_rank": null, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
      "torch_dtype": "bfloat16", "vocab_size": 102400})"},
    {"deepseek-v3",
     R"({"model_type": "deepseek_v3", "first_k_dense_replace": 3, "hidden_size": 7168, "intermediate_size": 18432,
      "kv_lora_rank": 512, "max_position_embeddings": 163840, "moe_intermediate_size": 2048, "moe_layer_freq": 1,
      "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1, "num_attention_heads": 128, "num_experts_per_tok": 8,
      "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536,
      "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3",
      "quant_method": "fp8", "weight_block_size": [128, 128]}, "tie_word_embeddings": false, "topk_method": "noaux_tc",
      "torch_dtype": "bfloat16", "v_head_dim": 128, "vocab_size": 129280})"},
    {"kimi-k2",
     R"({"model_type": "kimi_k2", "first_k_dense_replace": 1, "hidden_size": 7168, "intermediate_size": 18432,
      "kv_lora_rank": 512, "max_position_embeddings": 131072, "moe_intermediate_size": 2048, "moe_layer_freq": 1,
      "n_routed_experts": 384, "n_shared_experts": 1, "num_attention_heads": 64, "num_experts_per_tok": 8, "num_hidden_layers": 61,
      "num_key_value_heads": 64, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
      "quantization_config": {"quant_method": "fp8"}, "torch_dtype": "bfloat16", "vocab_size": 163840})"},
    {"gpt-oss-20b",
     R"({"model_type": "gpt_oss", "attention_bias": true, "experts_per_token": 4, "head_dim": 64, "hidden_size": 2880,
      "intermediate_size": 2880, "layer_types": ["sliding_attention", "full_attention"], "max_position_embeddings": 131072,
      "num_attention_heads": 64, "num_hidden_layers": 24, "num_key_value_heads": 8, "num_local_experts": 32, "sliding_window": 128,
      "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
      "tie_word_embeddings": false, "dtype": "bfloat16", "vocab_size": 201088})"},
    {"gemma-2-9b",
     R"({"model_type": "gemma2", "attention_bias": false, "final_logit_softcapping": 30.0, "head_dim": 256,
      "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 3584, "intermediate_size": 14336, "max_position_embeddings": 8192,
      "num_attention_heads": 16, "num_hidden_layers": 42, "num_key_value_heads": 8, "sliding_window": 4096,
      "torch_dtype": "bfloat16", "vocab_size": 256000})"},
    {"gemma-3-4b", R"({"model_type": "gemma3", "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1152},
      "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
      "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}})"},
    {"gemma-3-1b", R"({"model_type": "gemma3_text", "head_dim": 256, "hidden_size": 1152, "intermediate_size": 6912,
      "max_position_embeddings": 32768, "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
      "sliding_window": 512, "sliding_window_pattern": 6, "torch_dtype": "bfloat16", "vocab_size": 262144})"},
    {"phi-2", R"({"model_type": "phi", "hidden_act": "gelu_new", "hidden_size": 2560, "intermediate_size": 10240,
      "max_position_embeddings": 2048, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
      "partial_rotary_factor": 0.4, "tie_word_embeddings": false, "torch_dtype": "float16", "vocab_size": 51200})"},
    {"phi-3.5-moe", R"({"model_type": "phimoe", "attention_bias": true, "hidden_size": 4096, "intermediate_size": 6400,
      "lm_head_bias": true, "max_position_embeddings": 131072, "num_attention_heads": 32, "num_experts_per_tok": 2,
      "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 16, "sliding_window": 131072,
      "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 32064})"},
    {"falcon-7b", R"({"model_type": "falcon", "alibi": false, "bias": false, "hidden_size": 4544, "multi_query": true,
      "new_decoder_architecture": false, "num_attention_heads": 71, "num_hidden_layers": 32, "parallel_attn": true,
      "torch_dtype": "bfloat16", "vocab_size": 65024})"},
    {"falcon-40b", R"({"model_type": "falcon", "alibi": false, "bias": false, "hidden_size": 8192, "multi_query": true,
      "new_decoder_architecture": true, "num_attention_heads": 128, "num_hidden_layers": 60, "num_kv_heads": 8,
      "parallel_attn": true, "torch_dtype": "bfloat16", "vocab_size": 65024})"},
    {"opt-6.7b", R"({"model_type": "opt", "activation_function": "relu", "do_layer_norm_before": true, "ffn_dim": 16384,
      "hidden_size": 4096, "max_position_embeddings": 2048, "num_attention_heads": 32, "num_hidden_layers": 32,
      "torch_dtype": "float16", "vocab_size": 50272, "word_embed_proj_dim": 4096})"},
    {"bloom-176b",
     R"({"model_type": "bloom", "n_embed": 14336, "n_layer": 70, "num_attention_heads": 112, "seq_length": 2048,
      "torch_dtype": "bfloat16", "vocab_size": 250880})"},
    {"gpt-2",
     R"({"model_type": "gpt2", "activation_function": "gelu_new", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
      "n_positions": 1024, "vocab_size": 50257})"},
    {"gpt-j-6b",
     R"({"model_type": "gptj", "activation_function": "gelu_new", "n_embd": 4096, "n_head": 16, "n_inner": null,
      "n_layer": 28, "n_positions": 2048, "rotary_dim": 64, "tie_word_embeddings": false, "torch_dtype": "float16", "vocab_size": 50400})"},
    {"gpt-neox-20b",
     R"({"model_type": "gpt_neox", "hidden_act": "gelu_fast", "hidden_size": 6144, "intermediate_size": 24576,
      "max_position_embeddings": 2048, "num_attention_heads": 64, "num_hidden_layers": 44, "rotary_pct": 0.25,
      "tie_word_embeddings": false, "torch_dtype": "float16", "use_parallel_residual": true, "vocab_size": 50432})"},
    {"olmoe-1b-7b",
     R"({"model_type": "olmoe", "hidden_size": 2048, "intermediate_size": 1024, "max_position_embeddings": 4096,
      "num_attention_heads": 16, "num_experts": 64, "num_experts_per_tok": 8, "num_hidden_layers": 16, "num_key_value_heads": 16,
      "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 50304})"},
    {"dbrx", R"({"model_type": "dbrx", "attn_config": {"clip_qkv": 8, "kv_n_heads": 8}, "d_model": 6144, "ffn_config":
      {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4}, "max_seq_len": 32768, "n_heads": 48, "n_layers": 40,
      "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 100352})"},
    {"glm-4.5",
     R"({"model_type": "glm4_moe", "attention_bias": true, "first_k_dense_replace": 3, "head_dim": 128, "hidden_size": 5120,
      "intermediate_size": 12288, "max_position_embeddings": 131072, "moe_intermediate_size": 1536, "n_routed_experts": 160,
      "n_shared_experts": 1, "num_attention_heads": 96, "num_experts_per_tok": 8, "num_hidden_layers": 92, "num_key_value_heads": 8,
      "num_nextn_predict_layers": 1, "torch_dtype": "bfloat16", "use_qk_norm": true, "vocab_size": 151552})"},
    {"minimax-m2", R"({"model_type": "minimax_m2", "head_dim": 128, "hidden_size": 3072, "intermediate_size": 1536,
      "max_position_embeddings": 196608, "num_attention_heads": 48, "num_experts_per_tok": 8, "num_hidden_layers": 62,
      "num_key_value_heads": 8, "num_local_experts": 256, "qk_norm_type": "per_layer", "use_qk_norm": true, "use_routing_bias": true,
      "shared_intermediate_size": 0, "quantization_config": {"quant_method": "fp8"}, "vocab_size": 200064})"},
    {"bert-base-uncased", R"({"model_type": "bert", "hidden_act": "gelu", "hidden_size": 768, "intermediate_size": 3072,
      "max_position_embeddings": 512, "num_attention_heads": 12, "num_hidden_layers": 12, "type_vocab_size": 2, "vocab_size": 30522})"},
    {"xlm-roberta-large",
     R"({"model_type": "xlm-roberta", "hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096,
      "max_position_embeddings": 514, "num_attention_heads": 16, "num_hidden_layers": 24, "type_vocab_size": 1, "vocab_size": 250002})"},
};

// Everything but what a config.json cannot know.
std::string Dimensions(ModelSpec m) {
  m.aliases.clear();
  m.published = PublishedSpec();
  m.source = m.confidence = m.note = "";
  m.mlp.activation = "";
  if (m.moe.has_value()) {
    m.moe->popularity_cv = 0;
    m.moe->popularity_source = "";
    m.moe->correlation_source = "";
  }
  return WriteParams(m).ToYaml();
}

TEST(HuggingFaceImport, GivesTheCatalogueEntryOfEveryFamily) {
  for (const Case& c : kCases) {
    const auto imported = ImportHuggingFaceConfig(c.config, "config.json");
    ASSERT_TRUE(imported.ok()) << c.model << ": " << imported.status();
    const ModelSpec want = Model(c.model);
    EXPECT_EQ(Dimensions(*imported), Dimensions(want)) << c.model;
    EXPECT_EQ(ParameterCount(*imported), ParameterCount(want)) << c.model;
    EXPECT_EQ(imported->native_dtype, want.native_dtype) << c.model;
    EXPECT_EQ(imported->expert_dtype, want.expert_dtype) << c.model;
  }
}

TEST(HuggingFaceImport, EveryArchitectureIsTested) {
  for (const std::string& name : HuggingFaceArchitectures()) {
    if (name == "phi3" || name == "roberta" || name == "llama4_text")
      continue;  // phi3 below; the others as xlm-roberta and llama4
    bool found = false;
    for (const Case& c : kCases) found = found || std::string(c.config).find("\"" + name + "\"") != std::string::npos;
    EXPECT_TRUE(found) << name;
  }
}

TEST(HuggingFaceImport, Phi3) {
  // Phi-3-mini-4k: 3.82 billion parameters.
  const auto m = ImportHuggingFaceConfig(R"({"model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192,
      "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
      "sliding_window": 2047, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 32064})",
                                         "config.json");
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_NEAR(static_cast<double>(ParameterCount(*m)), 3.82e9, 0.005e9);
  EXPECT_EQ(m->attention.window, 2047);
}

TEST(HuggingFaceImport, QuantisedCheckpoints) {
  const auto dtype = [](const std::string& quantization) {
    const auto m = ImportHuggingFaceConfig(R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
        "max_position_embeddings": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "torch_dtype": "bfloat16",
        "vocab_size": 100, "quantization_config": )" +
                                               quantization + "}",
                                           "config.json");
    EXPECT_TRUE(m.ok()) << m.status();
    return m.ok() ? m->dtype + (m->note.empty() ? "" : "; " + m->note) : "";
  };
  EXPECT_EQ(dtype(R"({"quant_method": "fp8"})"), "fp8");
  EXPECT_EQ(dtype(R"({"quant_method": "awq", "bits": 4})"), "int4");
  EXPECT_EQ(dtype(R"({"quant_method": "gptq", "bits": 8})"), "int8");
  EXPECT_EQ(dtype(R"({"quant_method": "modelopt", "quant_algo": "NVFP4"})"), "nvfp4");
  EXPECT_EQ(
      dtype(
          R"({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}}})"),
      "fp8");
  EXPECT_EQ(
      dtype(
          R"({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}}})"),
      "int4");
  EXPECT_EQ(dtype("null"), "bf16");
  EXPECT_EQ(dtype(R"({"quant_method": "magic"})"),
            "bf16; quantization method \"magic\" is not known; weights taken as bf16");
}

std::string Error(const std::string& text) {
  const auto m = ImportHuggingFaceConfig(text, "dir/config.json");
  EXPECT_FALSE(m.ok()) << text;
  return std::string(m.status().message());
}

TEST(HuggingFaceImport, NamesMissingAndWrongFieldsAllAtOnce) {
  const std::string error = Error(R"({"model_type": "llama", "hidden_size": 4096, "num_attention_heads": "32",
      "num_hidden_layers": 0, "vocab_size": 32000, "tie_word_embeddings": 1})");
  EXPECT_THAT(error, HasSubstr("dir/config.json: intermediate_size: is missing; needed for model_type \"llama\""));
  EXPECT_THAT(error, HasSubstr("dir/config.json: max_position_embeddings: is missing"));
  EXPECT_THAT(error, HasSubstr("num_attention_heads: must be a whole number from 1"));
  EXPECT_THAT(error, HasSubstr("num_hidden_layers: must be a whole number from 1"));
  EXPECT_THAT(error, HasSubstr("tie_word_embeddings: must be true or false"));
}

TEST(HuggingFaceImport, NamesNestedFields) {
  EXPECT_THAT(
      Error(R"({"model_type": "dbrx", "d_model": 64, "n_heads": 4, "n_layers": 2, "vocab_size": 9, "max_seq_len": 8,
      "attn_config": {}, "ffn_config": {"moe_top_k": 4}})"),
      HasSubstr("ffn_config.moe_num_experts: is missing"));
  EXPECT_THAT(Error(R"({"model_type": "llama4"})"), HasSubstr("text_config: is missing"));
  EXPECT_THAT(Error(R"({"model_type": "gemma3", "text_config": 3})"), HasSubstr("text_config: must be an object"));
}

TEST(HuggingFaceImport, RefusesWhatItDoesNotKnow) {
  EXPECT_THAT(Error(R"({"model_type": "mamba"})"),
              HasSubstr("model_type: \"mamba\" is not supported; supported: Yi, bert, bloom"));
  EXPECT_THAT(Error("{}"), HasSubstr("model_type: is missing"));
  EXPECT_THAT(Error(R"({"model_type": 3})"), HasSubstr("model_type: must be text"));
  EXPECT_THAT(Error("[]"), HasSubstr("must be a JSON object"));
  // Impossible dimensions are found by the model's own check.
  EXPECT_THAT(
      Error(R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 64,
      "num_attention_heads": 4, "num_key_value_heads": 3, "num_hidden_layers": 2, "vocab_size": 100})"),
      HasSubstr("attention.kv_heads: 3 does not divide the 4 query heads"));
}

TEST(HuggingFaceImport, SurvivesJunk) {
  EXPECT_THAT(Error(""), HasSubstr("is not JSON"));
  EXPECT_THAT(Error("{\"model_type\": \"llama\",\n  \"hidden_size\": }"),
              HasSubstr("dir/config.json:2:18: is not JSON"));
  EXPECT_THAT(Error(std::string(100000, '[')), HasSubstr("nested deeper than 64"));
  EXPECT_THAT(Error(std::string((4u << 20) + 1, ' ')), HasSubstr("larger than 4 MiB"));
  EXPECT_THAT(Error("{\"model_type\": \"lla\xff\xfe\"}"), HasSubstr("is not JSON"));
  EXPECT_THAT(Error("{\"model_type\": \"llama\"} x"), HasSubstr("is not JSON"));
  // Sizes whose products leave 64 bits.
  const std::string huge = R"({"model_type": "mixtral", "hidden_size": 1000000000, "intermediate_size": 1000000000,
      "max_position_embeddings": 9, "num_attention_heads": 1, "num_experts_per_tok": 1, "num_hidden_layers": 1000000000,
      "num_local_experts": 1000000000, "torch_dtype": "bfloat16", "vocab_size": 1000000000})";
  EXPECT_THAT(Error(huge), HasSubstr("moe.experts: 1000000000 is not from 1 to 100000"));
  const std::string large = R"({"model_type": "mixtral", "hidden_size": 1000000, "intermediate_size": 10000000,
      "max_position_embeddings": 9, "num_attention_heads": 1000, "num_experts_per_tok": 1, "num_hidden_layers": 10000,
      "num_local_experts": 100000, "torch_dtype": "bfloat16", "vocab_size": 1000000})";
  EXPECT_THAT(Error(large), HasSubstr("more than 1e18 parameters"));
  // Every cut of a good file is refused without a crash.
  const std::string good = kCases[14].config;
  for (size_t n = 0; n < good.size(); ++n) Error(good.substr(0, n));
}

// ---- LoadModel ----

class LoadModelFiles : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::temp_directory_path() / ("simrun_models_test_" + std::to_string(::getpid()));
    std::filesystem::create_directories(dir_ / "My-Llama");
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = (dir_ / name).string();
    std::ofstream(path) << text;
    return path;
  }
  std::filesystem::path dir_;
};

TEST_F(LoadModelFiles, FindsNamesAliasesFilesAndDirectories) {
  EXPECT_EQ(Model("deepseek-ai/DeepSeek-V3").name, "deepseek-v3");
  const std::string json = Write("My-Llama/config.json", kCases[0].config);
  for (const std::string& path : {json, (dir_ / "My-Llama").string()}) {
    const ModelSpec m = Model(path);
    EXPECT_EQ(m.name, "My-Llama");
    EXPECT_EQ(ParameterCount(m), ParameterCount(Model("llama-2-70b")));
  }
  EXPECT_EQ(Model(Write("tiny.json", kCases[0].config)).name, "tiny");
  const std::string yaml = Write("small.yaml",
                                 "hidden: 64\nlayers: 2\nvocab: 100\nattention: {heads: 4, kv_heads: 2, head_dim: "
                                 "16}\nmlp: {ffn: 128}\nmax_positions: 512\n");
  const ModelSpec small = Model(yaml);
  EXPECT_EQ(small.name, "small");
  // Two embeddings, and per layer q, k+v, o, three matrices and two norms; one last norm.
  EXPECT_EQ(ParameterCount(small), 2 * 100 * 64 + 2 * (64 * 64 + 64 * 64 + 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64);
}

TEST_F(LoadModelFiles, ExplainsWhatIsWrong) {
  const auto error = [](const std::string& name) {
    return std::string(LoadModel(name, TestCatalog()).status().message());
  };
  EXPECT_THAT(error("llama-3.1-70"), HasSubstr("did you mean \"llama-3.1-70b\""));
  EXPECT_FALSE(LoadModel((dir_ / "absent.json").string(), TestCatalog()).ok());
  EXPECT_FALSE(LoadModel((dir_ / "absent.yaml").string(), TestCatalog()).ok());
  EXPECT_FALSE(LoadModel(dir_.string(), TestCatalog()).ok());  // a directory without config.json
  EXPECT_FALSE(LoadModel("", TestCatalog()).ok());
  const std::string typo = error(Write(
      "typo.yaml",
      "hiden: 64\nlayers: 2\nvocab: 100\nattention: {heads: 4, kv_heads: 2, head_dim: 16}\nmax_positions: 512\n"));
  EXPECT_THAT(typo, HasSubstr("typo.yaml:1:1: hiden:"));
  EXPECT_THAT(typo, HasSubstr("did you mean \"hidden\""));
  EXPECT_THAT(typo, HasSubstr("hidden: is required"));
  EXPECT_THAT(error(Write("bad.yaml",
                          "hidden: 64\nlayers: 2\nvocab: 100\nattention: {heads: 4, kv_heads: 3, head_dim: 16, "
                          "pattern: sliding}\nmax_positions: 512\n")),
              testing::AllOf(HasSubstr("attention.kv_heads: 3 does not divide the 4 query heads"),
                             HasSubstr("attention.window: is required"), HasSubstr("mlp.ffn: is required")));
}

TEST(ModelSpecYaml, PrintsBackToTheSameModel) {
  for (const std::string& name : ModelNames()) {
    const ModelSpec m = Model(name);
    const YamlNode written = WriteParams(m);
    const auto again = ReadModel(written, name);
    ASSERT_TRUE(again.ok()) << name << ": " << again.status();
    EXPECT_EQ(WriteParams(*again), written) << name;
    EXPECT_EQ(ParameterCount(*again), ParameterCount(m)) << name;
  }
}

TEST(ModelLayers, LinearOnesAreAllButEveryNth) {
  const ModelSpec m = Model("qwen3-next-80b-a3b");
  int full = 0;
  for (int64_t l = 0; l < m.layers; ++l) {
    EXPECT_EQ(m.IsLinearLayer(l), l % 4 != 3) << l;
    EXPECT_FALSE(m.IsWindowedLayer(l));
    full += m.IsLinearLayer(l) ? 0 : 1;
  }
  EXPECT_EQ(full, 12);
  EXPECT_FALSE(Model("llama-3.1-8b").IsLinearLayer(0));
}

TEST(ModelSpecYaml, SaysWhatIsWrongWithLinearAndSparseAttention) {
  const auto wrong = [](const std::string& attention) {
    const std::string yaml = "hidden: 1024\nlayers: 8\nvocab: 1000\nmax_positions: 4096\nmlp: {ffn: 4096}\nattention: {heads: 8, kv_heads: 8, head_dim: 128, " + attention + "}\n";
    const auto node = ParseYaml(yaml, "m.yaml");
    EXPECT_TRUE(node.ok());
    return std::string(ReadModel(*node, "m").status().message());
  };
  const std::string linear = "linear: {key_heads: 8, value_heads: 16, key_dim: 64, value_dim: 64}";
  EXPECT_EQ(wrong("pattern: linear, full_every: 4, " + linear), "");
  EXPECT_THAT(wrong("pattern: linear, " + linear), HasSubstr("attention.full_every: must leave at least one layer with full attention"));
  EXPECT_THAT(wrong("pattern: linear, full_every: 4"), HasSubstr("attention.linear: is required with pattern: linear"));
  EXPECT_THAT(wrong(linear), HasSubstr("attention.linear: has no meaning with this pattern; set pattern: linear"));
  EXPECT_THAT(wrong("pattern: linear, full_every: 4, window: 8, " + linear), HasSubstr("attention.window: has no meaning with linear attention"));
  EXPECT_THAT(wrong("pattern: linear, full_every: 4, linear: {key_heads: 5, value_heads: 16, key_dim: 64, value_dim: 64}"),
              HasSubstr("attention.linear.key_heads: 5 does not divide the 16 value heads"));
  EXPECT_THAT(wrong("sparse: {index_heads: 4, index_dim: 64, top_k: 512}"), HasSubstr("attention.sparse: needs latent attention"));
}

TEST(ModelLayers, DenseAndWindowedOnesFollowThePattern) {
  const ModelSpec maverick = Model("llama-4-maverick-17b-128e");  // dense, MoE, dense, MoE; every fourth layer global
  EXPECT_FALSE(maverick.IsMoeLayer(0));
  EXPECT_TRUE(maverick.IsMoeLayer(1));
  EXPECT_TRUE(maverick.IsWindowedLayer(0));
  EXPECT_FALSE(maverick.IsWindowedLayer(3));
  const ModelSpec deepseek = Model("deepseek-v3");  // three dense layers first
  EXPECT_FALSE(deepseek.IsMoeLayer(2));
  EXPECT_TRUE(deepseek.IsMoeLayer(3));
  const ModelSpec mistral = Model("mistral-7b-v0.1");
  EXPECT_TRUE(mistral.IsWindowedLayer(0));
  EXPECT_TRUE(mistral.IsWindowedLayer(31));
  EXPECT_FALSE(Model("llama-2-7b").IsWindowedLayer(0));
}

}  // namespace
}  // namespace simrun
