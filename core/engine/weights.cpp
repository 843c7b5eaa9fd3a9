#include "core/engine/weights.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <mutex>

#include "core/plugin/sha256.hpp"

namespace patchbay {
namespace {

// What a moe_weight_source points to while a backend packs it.
struct SourceContext {
  const MatrixSet* set;
  const Checkpoint* checkpoint;
  const LoadProgress* progress;
  std::atomic<uint64_t>* bytes_done;
  uint64_t bytes_total;
  std::mutex mutex;
  std::atomic<int64_t> asked_for = 0;  // matrices before this one have been prefetched

  // Has the matrices that come next read while this one is packed, about kAhead bytes of them.
  void read_ahead(int64_t group) {
    constexpr size_t kAhead = size_t{256} << 20;
    const auto& groups = set->groups;
    size_t bytes = 0;
    for (int64_t g = group; g < std::ssize(groups) && (g == group || bytes < kAhead); ++g) {
      for (const auto& part : groups[static_cast<size_t>(g)]) bytes += part.extent().size();
      int64_t expected = g;
      if (!asked_for.compare_exchange_strong(expected, g + 1)) continue;
      for (const auto& part : groups[static_cast<size_t>(g)]) checkpoint->prefetch(part.extent());
    }
  }

  static void read_f32(void* context, int64_t group, int64_t row, int64_t n_rows, float* out) {
    auto& self = *static_cast<SourceContext*>(context);
    if (row == 0) self.read_ahead(group);
    for (const auto& part : self.set->groups[static_cast<size_t>(group)]) {
      const int64_t rows_here = part.n_rows();
      if (row < rows_here) {
        const int64_t n = std::min(n_rows, rows_here - row);
        part.read_f32(row, n, out);
        out += n * self.set->n_in;
        n_rows -= n;
        row += n;
      }
      if (n_rows == 0) return;
      row -= rows_here;
    }
  }
  static const void* raw(void* context, int64_t group) {
    auto& self = *static_cast<SourceContext*>(context);
    if (self.asked_for <= group + 1) self.read_ahead(group);
    const auto& parts = self.set->groups[static_cast<size_t>(group)];
    if (parts.size() != 1) return nullptr;
    const auto bytes = parts[0].raw();
    return bytes ? *bytes : nullptr;
  }
  static void read_block_row(void* context, int64_t group, int64_t index, void* elements, int64_t stride,
                             float* scales) {
    auto& self = *static_cast<SourceContext*>(context);
    if (index == 0) self.read_ahead(group);
    for (const auto& part : self.set->groups[static_cast<size_t>(group)]) {
      const int64_t rows = part.blocks()->rows;
      const int64_t here = (part.n_rows() + rows - 1) / rows;
      if (index < here) return part.read_block_row(index, static_cast<std::byte*>(elements), stride, scales);
      index -= here;
    }
  }
  static void done(void* context, int64_t group) {
    auto& self = *static_cast<SourceContext*>(context);
    for (const auto& part : self.set->groups[static_cast<size_t>(group)]) {
      self.checkpoint->release(part.extent());
      if (share_of(part) > 0.99 && part.companion() != nullptr)
        self.checkpoint->release({part.companion()->data, part.companion()->bytes});
    }
    self.count(group);
  }
  // A group that is a slice of a tensor is its share of the progress.
  static double share_of(const TensorSource& part) {
    const auto total = static_cast<double>(std::max<int64_t>(1, element_count(part.data().shape)));
    return std::min(1.0, static_cast<double>(part.n_rows() * part.row_elements()) / total);
  }
  void count(int64_t group) {
    for (const auto& part : set->groups[static_cast<size_t>(group)])
      *bytes_done += static_cast<uint64_t>(share_of(part) * static_cast<double>(part.data().bytes));
    if (*progress == nullptr) return;
    const std::lock_guard lock(mutex);
    (*progress)(std::min(bytes_done->load(), bytes_total), bytes_total);
  }
};

// What a packed weight's bytes depend on, besides the checkpoint's and the backend's layout.
std::string packed_key(const MatrixSet& set, const moe_weight_source& source) {
  Sha256 hash;
  hash.add(fmt::format("{} {} [{}, {}, {}] {}\n", source.encoding, source.wanted, source.n_groups, source.n_out,
                       source.n_in, source.uses));
  for (const auto& parts : set.groups) {
    for (const auto& part : parts) hash.add(part.description() + "\n");
    hash.add("\n");
  }
  return hash.hex();
}

// How all matrices are stored as elements with scales of blocks, if each is made of whole rows of blocks.
std::optional<TensorSource::Blocks> blocks_of(const MatrixSet& set) {
  const auto blocks = set.groups[0][0].blocks();
  if (!blocks) return std::nullopt;
  for (const auto& parts : set.groups) {
    for (const auto& part : parts) {
      const bool lines_up = &part == &parts.back() || part.n_rows() % blocks->rows == 0;
      if (part.blocks() != blocks || !lines_up) return std::nullopt;
    }
  }
  return blocks;
}

bool rows_equal(const std::vector<TensorSource>& parts, int64_t n_in) {
  return std::all_of(parts.begin(), parts.end(), [&](const auto& p) { return p.row_elements() == n_in; });
}

// A vector is a matrix of one row or of one column.
bool is_matrix(std::span<const int64_t> shape, int64_t n_out, int64_t n_in) {
  if (shape.size() == 2) return shape[0] == n_out && shape[1] == n_in;
  return shape.size() == 1 && ((n_in == 1 && shape[0] == n_out) || (n_out == 1 && shape[0] == n_in));
}

}  // namespace

WeightLoader::WeightLoader(const Checkpoint& checkpoint, const ModelSpec& spec, LoadProgress progress,
                           PackedCaches* packed)
    : checkpoint_(checkpoint),
      spec_(spec),
      progress_(std::move(progress)),
      packed_(packed),
      used_(checkpoint.tensors().size(), false) {
  for (const auto& t : checkpoint.tensors()) bytes_total_ += t.bytes;
  if (locate(spec.tensors, "embed", 0, 0)) return;
  for (const auto& rename : spec.renames) {
    rename_ = rename;
    if (locate(spec.tensors, "embed", 0, 0)) return;
  }
  rename_ = {};
}

std::string WeightLoader::subject(const TensorInfo& tensor) const {
  return fmt::format("{}: tensor {}", checkpoint_.file_of(tensor).string(), quoted_name(tensor.name));
}

std::string WeightLoader::expand(const std::string& pattern, int64_t layer, int64_t expert) const {
  const std::string name =
      pattern.starts_with(rename_.from) ? rename_.to + pattern.substr(rename_.from.size()) : pattern;
  return expand_tensor_name(name, layer, expert, static_cast<int64_t>(spec_.layers.size()));
}

std::string expand_tensor_name(const std::string& pattern, int64_t layer, int64_t expert, int64_t n_layers) {
  std::string out = pattern;
  const std::pair<const char*, int64_t> names[] = {{"{layer}", layer}, {"{expert}", expert}, {"{n_layers}", n_layers}};
  for (const auto& [name, value] : names) {
    for (size_t at = out.find(name); at != std::string::npos; at = out.find(name))
      out.replace(at, std::string_view(name).size(), std::to_string(value));
  }
  return out;
}

std::string WeightLoader::scales_name(const TensorPattern& pattern, const std::string& tensor, int64_t layer,
                                      int64_t expert) const {
  constexpr std::string_view kTensor = "{tensor}";
  const size_t at = pattern.scales.find(kTensor);
  if (at == std::string::npos) return expand(pattern.scales, layer, expert);
  return pattern.scales.substr(0, at) + tensor + pattern.scales.substr(at + kTensor.size());
}

std::vector<WeightLoader::Found> WeightLoader::alternatives(const TensorMap& map, const std::string& role,
                                                            int64_t layer, int64_t expert) const {
  std::vector<Found> out;
  const auto it = map.find(role);
  if (it == map.end()) return out;
  const auto mark = [&](const TensorInfo* t) { used_[static_cast<size_t>(t - checkpoint_.tensors().data())] = true; };
  for (const auto& pattern : it->second) {
    Found found;
    found.pattern = &pattern;
    const std::string name = expand(pattern.name, layer, expert);
    found.tensor = checkpoint_.find(name);
    if (found.tensor == nullptr) continue;
    mark(found.tensor);
    if (!pattern.scales.empty()) found.scales = checkpoint_.find(scales_name(pattern, name, layer, expert));
    if (found.scales != nullptr) mark(found.scales);
    out.push_back(found);
  }
  return out;
}

std::optional<WeightLoader::Found> WeightLoader::locate(const TensorMap& map, const std::string& role, int64_t layer,
                                                        int64_t expert) const {
  const auto all = alternatives(map, role, layer, expert);
  return all.empty() ? std::nullopt : std::optional(all.front());
}

moe::Error WeightLoader::missing(const TensorMap& map, const std::string& role, int64_t layer, int64_t expert) const {
  std::vector<std::string> names;
  if (const auto it = map.find(role); it != map.end()) {
    for (const auto& p : it->second) names.push_back(expand(p.name, layer, expert));
  }
  if (names.empty())
    return moe::not_found(fmt::format("layer {}: weight \"{}\": the architecture \"{}\" names no tensor for it", layer,
                                      role, spec_.architecture));
  return moe::not_found(fmt::format("tensor {}: expected it in the checkpoint (weight \"{}\"), got none",
                                    fmt::join(names, " or "), role));
}

moe::Result<TensorSource> WeightLoader::source(const Found& found, int64_t group, int64_t n_groups) const {
  const TensorPattern& p = *found.pattern;
  if (found.scales == nullptr && !p.scaled_encoding.empty() && found.tensor->encoding == p.scaled_encoding) {
    const std::string name(found.tensor->name);
    return moe::invalid(fmt::format("{}: expected {} beside {}, got none", subject(*found.tensor),
                                    scales_name(p, name, 0, 0), p.scaled_encoding));
  }
  moe::Result<TensorSource> made =
      found.scales == nullptr ? TensorSource::plain(*found.tensor)
      : p.packed              ? TensorSource::mxfp4(*found.tensor, *found.scales)
                              : TensorSource::block_scaled(*found.tensor, *found.scales, p.scale_rows, p.scale_cols);
  MOE_ASSIGN(TensorSource out, std::move(made));
  if (p.name.find("{expert}") == std::string::npos && (n_groups > 1 || out.shape().size() == 3)) {
    if (out.n_rows() != n_groups) {
      return moe::invalid(
          fmt::format("{}: expected {} groups, got {}", subject(*found.tensor), n_groups, out.n_rows()));
    }
    MOE_ASSIGN(out, out.select(group));
  }
  if (p.transposed) {
    MOE_ASSIGN(out, out.transposed());
  }
  if (p.n_parts > 1) {
    if (out.n_rows() % p.n_parts != 0) {
      return moe::invalid(
          fmt::format("{}: expected rows in {} parts, got {}", subject(*found.tensor), p.n_parts, out.n_rows()));
    }
    const int64_t rows = out.n_rows() / p.n_parts;
    MOE_ASSIGN(out, p.interleaved ? out.slice(0, p.part, rows, p.n_parts) : out.slice(0, p.part * rows, rows));
  }
  return out;
}

bool WeightLoader::has(const TensorMap& map, const std::string& role, int64_t layer) const {
  return locate(map, role, layer, 0).has_value();
}

moe::Result<std::optional<TensorSource>> WeightLoader::matrix(const TensorMap& map, const std::string& role,
                                                              int64_t layer) const {
  const auto found = locate(map, role, layer, 0);
  if (!found) return std::optional<TensorSource>();
  MOE_ASSIGN(TensorSource out, source(*found, 0, 1));
  return std::optional<TensorSource>(out);
}

moe::Result<MatrixSet> WeightLoader::matrices(const TensorMap& map, const std::string& role, int64_t layer,
                                              int64_t n_groups, int64_t n_out, int64_t n_in) const {
  MatrixSet set;
  set.role = role;
  set.n_out = n_out;
  set.n_in = n_in;
  for (int64_t g = 0; g < n_groups; ++g) {
    const auto all = alternatives(map, role, layer, g);
    if (all.empty()) return missing(map, role, layer, g);
    // Of several that are there (one tensor that some checkpoints store transposed) the first that fits.
    std::optional<TensorSource> fitting;
    std::optional<moe::Error> wrong;
    for (size_t i = 0; i < all.size() && !fitting; ++i) {
      auto read = source(all[i], g, n_groups);
      if (read.ok() && is_matrix(read->shape(), n_out, n_in)) {
        fitting = *read;
      } else if (!wrong) {
        wrong = read.ok()
                    ? moe::invalid(fmt::format("{}: expected [{}, {}] (weight \"{}\"), got {}", subject(*all[i].tensor),
                                               n_out, n_in, role, shape_text(read->shape())))
                    : read.error();
      }
    }
    if (!fitting) return *wrong;
    TensorSource s = *fitting;
    if (s.shape().size() == 1 && n_in != 1) {  // one row, stored without its first dimension
      MOE_ASSIGN(s, s.as_row());
    }
    if (set.name.empty()) set.name = s.data().name;
    set.groups.push_back({s});
  }
  return set;
}

moe::Status WeightLoader::append(MatrixSet& base, const MatrixSet& more) {
  if (base.groups.size() != more.groups.size() || base.n_in != more.n_in)
    return moe::internal("matrices of different kinds cannot be joined");
  for (size_t g = 0; g < base.groups.size(); ++g)
    base.groups[g].insert(base.groups[g].end(), more.groups[g].begin(), more.groups[g].end());
  base.n_out += more.n_out;
  return {};
}

moe::Result<std::vector<float>> WeightLoader::vectors(const TensorMap& map, const std::string& role, int64_t layer,
                                                      int64_t n_groups, int64_t n) const {
  std::vector<float> out(static_cast<size_t>(n_groups * n));
  for (int64_t g = 0; g < n_groups; ++g) {
    const auto found = locate(map, role, layer, g);
    if (!found) return missing(map, role, layer, g);
    // A stack of vectors is a 2-D tensor.
    MOE_ASSIGN(TensorSource s, TensorSource::plain(*found->tensor));
    const bool stacked =
        found->pattern->name.find("{expert}") == std::string::npos && s.shape().size() == 2 && n_groups > 1;
    if (stacked && s.n_rows() != n_groups) {
      return moe::invalid(fmt::format("{}: expected {} rows, got {}", subject(*found->tensor), n_groups, s.n_rows()));
    }
    if (stacked) {
      MOE_ASSIGN(s, s.select(g));
    }
    const TensorPattern& p = *found->pattern;
    if (p.n_parts > 1 && s.n_rows() % p.n_parts == 0) {
      const int64_t rows = s.n_rows() / p.n_parts;
      MOE_ASSIGN(s, p.interleaved ? s.slice(0, p.part, rows, p.n_parts) : s.slice(0, p.part * rows, rows));
    }
    if (element_count(s.shape()) != n) {
      return moe::invalid(fmt::format("{}: expected [{}] (weight \"{}\"), got {}", subject(*found->tensor), n, role,
                                      shape_text(s.shape())));
    }
    float* at = out.data() + g * n;
    s.read_f32(0, s.n_rows(), at);
    for (int64_t i = 0; i < n; ++i) {
      at[i] += static_cast<float>(p.offset);
      if (!std::isfinite(at[i]))
        return moe::invalid(
            fmt::format("{}: element {}: expected a finite number, got {}", subject(*found->tensor), i, at[i]));
    }
  }
  return out;
}

moe::Result<PreparedWeight> WeightLoader::prepare(Device& device, const MatrixSet& set, const char* encoding,
                                                  uint32_t uses) {
  for (const auto& parts : set.groups) {
    if (!rows_equal(parts, set.n_in)) return moe::internal(fmt::format("{}: rows of different lengths", set.name));
  }
  SourceContext context{&set, &checkpoint_, &progress_, &bytes_done_, bytes_total_, {}};
  moe_weight_source source = moe::make<moe_weight_source>();
  const std::string stored(set.groups[0][0].encoding());
  // With a companion (scales of their own) no single encoding says what the numbers are.
  const bool pair = set.groups[0][0].companion() != nullptr;
  source.name = set.name.c_str();
  source.role = set.role.c_str();
  source.encoding = pair ? "f32" : stored.c_str();
  source.wanted = encoding;
  source.n_groups = static_cast<int64_t>(set.groups.size());
  source.n_out = set.n_out;
  source.n_in = set.n_in;
  source.uses = uses;
  source.context = &context;
  source.read_f32 = SourceContext::read_f32;
  source.raw = SourceContext::raw;
  source.done = SourceContext::done;
  const auto blocks = blocks_of(set);
  const std::string block_encoding(blocks ? blocks->encoding : std::string_view());
  if (blocks) {
    source.block_encoding = block_encoding.c_str();
    source.block_rows = blocks->rows;
    source.block_cols = blocks->cols;
    source.read_block_row = SourceContext::read_block_row;
  }
  if (packed_ == nullptr) return device.prepare(source);
  bool from_file = false;
  MOE_ASSIGN(PreparedWeight weight, packed_->prepare(device, source, packed_key(set, source), &from_file));
  for (int64_t g = 0; from_file && g < source.n_groups; ++g) context.count(g);
  return weight;
}

moe::Result<Buffer> WeightLoader::upload(Device& device, const std::vector<float>& values) {
  MOE_ASSIGN(Buffer buffer, device.alloc(std::max<size_t>(values.size(), 1) * sizeof(float)));
  MOE_TRY(device.upload(buffer.data(), values.data(), values.size() * sizeof(float)));
  return buffer;
}

WeightLoader::Leftovers WeightLoader::leftovers() const {
  Leftovers out;
  std::vector<std::string> prefixes;
  for (const auto& prefix : spec_.ignored) {
    prefixes.push_back(expand(prefix, 0, 0));
    if (prefixes.back() != prefix) prefixes.push_back(prefix);  // what lies beside the part that was renamed
  }
  const auto tensors = checkpoint_.tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (used_[i]) continue;
    const auto ignored =
        std::find_if(prefixes.begin(), prefixes.end(), [&](const auto& p) { return tensors[i].name.starts_with(p); });
    if (ignored == prefixes.end()) {
      out.unknown.emplace_back(tensors[i].name);
    } else {
      ++out.ignored[*ignored];
    }
  }
  return out;
}

}  // namespace patchbay
