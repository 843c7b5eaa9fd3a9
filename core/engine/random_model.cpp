#include "core/engine/random_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <optional>

#include "core/model/checkpoint/gguf_types.hpp"
#include "core/model/checkpoint/safetensors.hpp"
#include "core/model/checkpoint/safetensors_writer.hpp"

namespace patchbay {
namespace {

namespace fs = std::filesystem;

// Lists the tensors of one outline.
class Lister {
 public:
  Lister(const ModelOutline& outline, std::string type, bool gguf)
      : outline_(outline), type_(std::move(type)), gguf_(gguf) {}

  moe::Result<std::vector<RandomTensor>> list() {
    MOE_TRY(check_type());
    for (const WeightNeed& need : outline_.weights) MOE_TRY(add(need));
    if (type_ == "mxfp4" && !gguf_ && !packed_) {
      return moe::invalid(
          fmt::format("type: expected f32, f16 or bf16 (the architecture \"{}\" has no tensors for MXFP4), got mxfp4",
                      outline_.spec.architecture));
    }
    return std::move(tensors_);
  }

 private:
  moe::Status check_type() const {
    const auto known = RandomFill::encodings();
    const bool is_known = std::find(known.begin(), known.end(), type_) != known.end();
    const bool plain = type_ == "f32" || type_ == "f16" || type_ == "bf16";
    if (is_known && (gguf_ ? find_gguf_encoding(type_) != nullptr : plain || type_ == "mxfp4")) return {};
    return moe::invalid(fmt::format(
        "type: expected {}, got \"{}\"",
        gguf_ ? "f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k or mxfp4" : "f32, f16, bf16 or mxfp4",
        type_));
  }

  moe::Status add(const WeightNeed& need) {
    const auto found = (outline_.spec.*need.map).find(need.role);
    if (found == (outline_.spec.*need.map).end() || found->second.empty()) {
      return moe::not_found(fmt::format("layer {}: weight \"{}\": the architecture \"{}\" names no tensor for it",
                                        need.layer, need.role, outline_.spec.architecture));
    }
    const TensorPattern* pattern = &found->second.front();
    for (const auto& alternative : found->second) {
      if (alternative.packed && type_ == "mxfp4") pattern = &alternative;
    }
    const bool apart = pattern->name.find("{expert}") != std::string::npos;
    for (int64_t g = 0; g < (apart ? need.n_groups : 1); ++g) MOE_TRY(add_tensor(need, *pattern, g, apart));
    return {};
  }

  moe::Status add_tensor(const WeightNeed& need, const TensorPattern& pattern, int64_t group, bool apart) {
    const auto n_layers = static_cast<int64_t>(outline_.spec.layers.size());
    std::vector<int64_t> shape = {need.n_out * pattern.n_parts};
    if (!need.vector) shape.push_back(need.n_in);
    if (pattern.transposed) std::swap(shape[0], shape[1]);
    if (!apart && (need.n_groups > 1 || need.part == WeightPart::kExperts)) shape.insert(shape.begin(), need.n_groups);
    const std::string name = expand_tensor_name(pattern.name, need.layer, group, n_layers);
    const auto kind = need.part == WeightPart::kNorm ? RandomKind::kOnes : RandomKind::kMatrix;
    if (!pattern.packed) {
      const std::string encoding = encoding_of(need, shape.back());
      return put(name, encoding, encoding, std::move(shape), kind);
    }
    packed_ = true;
    constexpr int64_t kBlock = 32;
    if (shape.back() % kBlock != 0)
      return moe::invalid(fmt::format("tensor {}: expected rows of a multiple of {} for MXFP4, got {}", name, kBlock,
                                      shape_text(shape)));
    shape.back() /= kBlock;
    MOE_TRY(put(expand_tensor_name(pattern.scales, need.layer, group, n_layers), "u8", "mxfp4_scales", shape, kind));
    shape.push_back(kBlock / 2);
    return put(name, "u8", "mxfp4_blocks", std::move(shape), kind);
  }

  [[nodiscard]] std::string encoding_of(const WeightNeed& need, int64_t row) const {
    if (gguf_ && (need.vector || need.part == WeightPart::kRouter)) return "f32";
    if (!gguf_) return type_ == "mxfp4" ? "bf16" : type_;
    if (row % find_gguf_encoding(type_)->block_elements == 0) return type_;
    return row % find_gguf_encoding("q8_0")->block_elements == 0 ? "q8_0" : "f16";
  }

  // Once, where two weights are parts of one tensor.
  moe::Status put(const std::string& name, const std::string& encoding, const std::string& fill,
                  std::vector<int64_t> shape, RandomKind kind) {
    const auto [at, is_new] = places_.emplace(name, tensors_.size());
    if (is_new) {
      tensors_.push_back({{name, encoding, std::move(shape)}, fill, kind});
      return {};
    }
    if (tensors_[at->second].declaration.shape == shape) return {};
    return moe::internal(fmt::format("tensor {}: expected one shape, got {} and {}", name,
                                     shape_text(tensors_[at->second].declaration.shape), shape_text(shape)));
  }

  const ModelOutline& outline_;
  std::string type_;
  bool gguf_;
  bool packed_ = false;
  std::vector<RandomTensor> tensors_;
  std::map<std::string, size_t> places_;
};

moe::Status write_tensors(const std::vector<RandomTensor>& tensors, uint64_t seed,
                          const std::function<moe::Status(const std::string&, std::span<const std::byte>)>& write,
                          const std::function<bool(uint64_t, uint64_t)>& progress) {
  uint64_t total = 0;
  for (const auto& t : tensors) total += stored_bytes(t.declaration);
  uint64_t done = 0;
  std::vector<std::byte> piece;
  for (const auto& t : tensors) {
    MOE_ASSIGN(const RandomFill fill, RandomFill::make(t.fill, t.kind, seed, t.declaration.name));
    const uint64_t bytes = stored_bytes(t.declaration);
    const uint64_t most = std::max<uint64_t>((uint64_t{8} << 20) / fill.unit_bytes(), 1) * fill.unit_bytes();
    for (uint64_t at = 0; at < bytes; at += piece.size()) {
      piece.resize(std::min(most, bytes - at));
      fill.fill(at, piece);
      MOE_TRY(write(t.declaration.name, piece));
      done += piece.size();
      if (progress && !progress(done, total)) return moe::Error{MOE_CANCELLED, "interrupted: nothing was left behind"};
    }
  }
  return {};
}

std::vector<TensorDeclaration> declarations_of(const std::vector<RandomTensor>& tensors) {
  std::vector<TensorDeclaration> out;
  for (const auto& t : tensors) out.push_back(t.declaration);
  return out;
}

moe::Status write_directory(const fs::path& out, const ModelShape& shape, const std::vector<RandomTensor>& tensors,
                            const RandomModelOptions& options,
                            const std::function<bool(uint64_t, uint64_t)>& progress) {
  std::error_code ec;
  fs::create_directories(out, ec);
  if (ec)
    return moe::invalid(fmt::format("{}: expected a directory that can be made, got: {}", out.string(), ec.message()));
  SafetensorsWriterOptions writing;
  writing.max_shard_bytes = options.max_shard_bytes;
  MOE_ASSIGN(auto writer, SafetensorsWriter::create(out, declarations_of(tensors), writing));
  MOE_TRY(write_tensors(
      tensors, options.seed,
      [&](const std::string& name, std::span<const std::byte> bytes) { return writer.write(name, bytes); }, progress));
  MOE_TRY(writer.finish());
  const std::string text = shape.config.dump(2) + "\n";
  MOE_ASSIGN(auto config, OutputFile::create(out / "config.json", text.size()));
  MOE_TRY(config.write_at(0, std::as_bytes(std::span(text))));
  return config.commit();
}

}  // namespace

uint64_t stored_bytes(const TensorDeclaration& tensor) {
  const auto n = static_cast<uint64_t>(element_count(tensor.shape));
  if (const GgufTensorType* type = find_gguf_encoding(tensor.encoding))
    return n / type->block_elements * type->block_bytes;
  const SafetensorsDtype* dtype = find_safetensors_encoding(tensor.encoding);
  return dtype == nullptr ? 0 : n * dtype->bits / 8;
}

moe::Result<std::vector<RandomTensor>> random_tensors(const ModelOutline& outline, const std::string& type, bool gguf) {
  return Lister(outline, type, gguf).list();
}

moe::Status write_random_model(const fs::path& out, const ModelShape& shape, const ModelOutline& outline,
                               const RandomModelOptions& options,
                               const std::function<bool(uint64_t, uint64_t)>& progress) {
  std::error_code ec;
  if (fs::exists(options.gguf ? out : out / "config.json", ec) ||
      (!options.gguf && fs::exists(out, ec) && !fs::is_directory(out, ec))) {
    return moe::Error{MOE_ALREADY_EXISTS, fmt::format("{}: expected nothing there yet, got a file",
                                                      (options.gguf ? out : out / "config.json").string())};
  }
  MOE_ASSIGN(const auto tensors, random_tensors(outline, options.type, options.gguf));
  if (!options.gguf) return write_directory(out, shape, tensors, options, progress);
  if (shape.gguf.empty()) {
    return moe::invalid(fmt::format(
        "shape {}: expected a table [gguf], which says what such a file's metadata are, got none", shape.name));
  }
  MOE_ASSIGN(auto writer, GgufWriter::create(out, shape.gguf, declarations_of(tensors)));
  MOE_TRY(write_tensors(
      tensors, options.seed,
      [&](const std::string& name, std::span<const std::byte> bytes) { return writer.write(name, bytes); }, progress));
  return writer.finish();
}

}  // namespace patchbay
