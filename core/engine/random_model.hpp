// Models of a given shape with random weights: in memory for benchmarks, or written as a checkpoint.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/engine/outline.hpp"
#include "core/model/files/model_files.hpp"
#include "core/model/random/fill.hpp"
#include "core/model/random/shape.hpp"

namespace patchbay {

// A tensor of a checkpoint to be made.
struct RandomTensor {
  TensorDeclaration declaration;
  std::string fill;  // an encoding of RandomFill
  RandomKind kind = RandomKind::kMatrix;
};

// The tensors that hold the weights of an outline as the first alternative of each role has them. `type` is the
// encoding of matrices: f32, f16, bf16, or one of GGUF's where `gguf`, or mxfp4 where the architecture has a packed
// alternative. Where rows are no multiple of a block, q8_0 or f16 takes its place, as in llama.cpp; vectors are f32 in
// GGUF and as `type` says elsewhere. MOE_INVALID_ARGUMENT: no such type.
moe::Result<std::vector<RandomTensor>> random_tensors(const ModelOutline& outline, const std::string& type, bool gguf);

// Bytes of the tensor.
uint64_t stored_bytes(const TensorDeclaration& tensor);

// A model of that shape in memory: a few MiB of random numbers stand for all of its tensors. `outline` was made without
// a checkpoint.
moe::Result<std::unique_ptr<ModelFiles>> random_model_files(const ModelShape& shape, const ModelOutline& outline,
                                                            const std::string& type);

struct RandomModelOptions {
  std::string type = "bf16";
  uint64_t seed = 0;
  bool gguf = false;
  uint64_t max_shard_bytes = uint64_t{5} << 30;  // safetensors
};

// Writes the model: a directory with config.json and safetensors, or one .gguf file. Streams: holds one piece of a
// tensor at a time. What is at `out` already is left alone (MOE_ALREADY_EXISTS); MOE_RESOURCE_EXHAUSTED before anything
// is written if the disk has no room. `progress` may be empty; it is asked whether to go on.
moe::Status write_random_model(const std::filesystem::path& out, const ModelShape& shape, const ModelOutline& outline,
                               const RandomModelOptions& options,
                               const std::function<bool(uint64_t done, uint64_t total)>& progress);

}  // namespace patchbay
