#include "core/engine/outline.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>

#include "moe/sdk/backend.hpp"

namespace patchbay {
namespace {

constexpr const char* kPartNames[kWeightParts] = {"embedding", "attention", "norms", "router",
                                                  "experts",   "shared",    "dense", "head"};

class OutlineBackend final : public moe::Backend {
 public:
  static constexpr const char* kName = "outline";
  static constexpr const char* kDoc = "Keeps nothing and runs nothing.";

  moe::Status open(const moe::Options& /*options*/) override { return {}; }
  [[nodiscard]] moe_backend_description describe() const override {
    auto d = moe::make<moe_backend_description>();
    d.device = moe::kHost;
    d.flags = MOE_BACKEND_HOST_VISIBLE;
    d.device_name = "none";
    return d;
  }
  // Address space that becomes memory where it is written: caches never are.
  moe::Result<moe_buffer> alloc(uint64_t n_bytes, int32_t /*memory*/) override {
    void* data = mmap(nullptr, std::max<uint64_t>(n_bytes, 1), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED)
      return moe::exhausted("address space: expected " + std::to_string(n_bytes) + " bytes, got fewer");
    auto buffer = moe::make<moe_buffer>();
    buffer.data = data;
    buffer.n_bytes = n_bytes;
    buffer.device = moe::kHost;
    buffer.release = [](moe_buffer* b) { munmap(b->data, std::max<uint64_t>(b->n_bytes, 1)); };
    return buffer;
  }
  moe::Status copy(void* /*to*/, const void* /*from*/, uint64_t /*n_bytes*/, int32_t /*direction*/,
                   void* /*stream*/) override {
    return {};
  }
  moe::Result<moe_prepared> prepare(const moe_weight_source& /*source*/) override {
    auto prepared = moe::make<moe_prepared>();
    prepared.weight = reinterpret_cast<moe_weight*>(this);  // never looked into
    prepared.encoding = "none";
    return prepared;
  }
  moe::Result<moe_op_info> find_op(std::string_view /*id*/, const moe_op_args& /*largest*/) override {
    auto info = moe::make<moe_op_info>();
    info.op = reinterpret_cast<const moe_op*>(this);
    info.implementation = "none";
    return info;
  }
  moe::Status launch(const moe_op& /*op*/, const moe_op_args& /*args*/, void* /*stream*/) override {
    return moe::unimplemented("an outline cannot run");
  }
  moe::Status sync(void* /*stream*/) override { return {}; }
};

const Checkpoint& no_checkpoint() {
  static const Checkpoint none;
  return none;
}

}  // namespace

const char* weight_part_name(WeightPart part) { return kPartNames[static_cast<size_t>(part)]; }

Component<moe_backend> outline_backend() { return {&moe::ComponentOf<OutlineBackend>::kTable, nullptr}; }

OutlineLoader::OutlineLoader(const Checkpoint* checkpoint, const ModelSpec& spec)
    : WeightLoader(checkpoint == nullptr ? no_checkpoint() : *checkpoint, spec, {}), real_(checkpoint) {}

TensorMap ModelSpec::*OutlineLoader::member_of(const TensorMap& map) const {
  for (TensorMap ModelSpec::*member :
       {&ModelSpec::layer_tensors, &ModelSpec::router_tensors, &ModelSpec::expert_tensors, &ModelSpec::dense_tensors}) {
    if (&(spec().*member) == &map) return member;
  }
  return &ModelSpec::tensors;
}

WeightPart OutlineLoader::part_of(const TensorMap& map, const std::string& role, int64_t layer,
                                  int64_t n_groups) const {
  const ModelSpec& s = spec();
  if (&map == &s.router_tensors) return WeightPart::kRouter;
  if (&map == &s.dense_tensors) return WeightPart::kDense;
  if (&map == &s.expert_tensors) {
    const int64_t n_experts = s.layers[static_cast<size_t>(layer)].ffn.n_experts;
    return n_groups == n_experts || n_groups > 1 ? WeightPart::kExperts : WeightPart::kShared;
  }
  if (role.find("norm") != std::string::npos) return WeightPart::kNorm;
  if (&map == &s.layer_tensors) return WeightPart::kAttention;
  return role == "embed" ? WeightPart::kEmbedding : WeightPart::kHead;
}

// What the checkpoint stores for a weight that was found whole.
void OutlineLoader::note_stored(WeightNeed& need) const {
  std::set<const TensorInfo*> seen;
  double elements = 0;
  double bytes = 0;
  for (int64_t g = 0; g < need.n_groups; ++g) {
    const auto found = locate(spec().*need.map, need.role, need.layer, g);
    if (!found || !seen.insert(found->tensor).second) continue;
    need.encoding = found->pattern->packed && found->scales != nullptr ? "mxfp4" : found->tensor->encoding;
    const double per_element =
        need.encoding == "mxfp4" && found->scales != nullptr ? 2 : 1;  // two to a byte of the blocks
    elements += static_cast<double>(element_count(found->tensor->shape)) * per_element;
    bytes += static_cast<double>(found->tensor->bytes);
    if (found->scales != nullptr) bytes += static_cast<double>(found->scales->bytes);
  }
  need.stored_bytes = elements == 0 ? 0 : bytes * need.n_elements() / elements;
}

moe::Result<MatrixSet> OutlineLoader::stand_in(const WeightNeed& need) const {
  Invented& made = invented_.emplace_back();
  made.shape = {need.n_out, need.n_in};
  made.info.name = "none";
  made.info.encoding = "f32";
  made.info.shape = made.shape;
  MOE_ASSIGN(const TensorSource source, TensorSource::plain(made.info));
  MatrixSet set{need.role, need.role, need.n_out, need.n_in, {}};
  set.groups.assign(static_cast<size_t>(need.n_groups), {source});
  return set;
}

moe::Result<MatrixSet> OutlineLoader::matrices(const TensorMap& map, const std::string& role, int64_t layer,
                                               int64_t n_groups, int64_t n_out, int64_t n_in) const {
  WeightNeed need{
      part_of(map, role, layer, n_groups), member_of(map), role, layer, n_groups, n_out, n_in, false, false, 0, ""};
  if (real_ != nullptr) {
    auto found = WeightLoader::matrices(map, role, layer, n_groups, n_out, n_in);
    if (found.ok()) {
      note_stored(need);
      outline_.weights.push_back(std::move(need));
      return found;
    }
    if (said_.insert(found.error().message).second) outline_.problems.push_back(found.error().message);
  }
  outline_.weights.push_back(need);
  return stand_in(need);
}

moe::Result<std::vector<float>> OutlineLoader::vectors(const TensorMap& map, const std::string& role, int64_t layer,
                                                       int64_t n_groups, int64_t n) const {
  WeightNeed need{part_of(map, role, layer, n_groups), member_of(map), role, layer, n_groups, n, 1, true, false, 0, ""};
  constexpr double kMost = 1 << 28;  // no model's vectors of one layer are near it
  if (need.n_elements() > kMost)
    return moe::invalid(
        fmt::format("layer {}: {}: expected at most {} numbers, got {} x {}", layer, role, kMost, n_groups, n));
  std::vector<float> values(static_cast<size_t>(n_groups * n));
  if (real_ != nullptr) {
    auto found = WeightLoader::vectors(map, role, layer, n_groups, n);
    if (found.ok()) {
      note_stored(need);
      values = std::move(found).value();  // a part may refuse what is no table, say
    } else if (said_.insert(found.error().message).second) {
      outline_.problems.push_back(found.error().message);
    }
  }
  outline_.weights.push_back(std::move(need));
  return values;
}

bool OutlineLoader::has(const TensorMap& map, const std::string& role, int64_t layer) const {
  return real_ != nullptr ? WeightLoader::has(map, role, layer) : map.contains(role);
}

moe::Result<PreparedWeight> OutlineLoader::prepare(Device& device, const MatrixSet& set, const char* encoding,
                                                   uint32_t uses) {
  // What was asked for since the last weight was prepared goes into this one.
  for (size_t& i = first_unprepared_; i < outline_.weights.size(); ++i) {
    outline_.weights[i].follows_precision = !outline_.weights[i].vector && std::string_view(encoding) != "auto";
  }
  return WeightLoader::prepare(device, set, encoding, uses);
}

ModelOutline OutlineLoader::take() {
  if (real_ != nullptr) outline_.unused = leftovers().unknown;
  return std::move(outline_);
}

}  // namespace patchbay
