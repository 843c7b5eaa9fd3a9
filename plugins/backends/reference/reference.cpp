// The backend `reference`: weights as f32, and the SDK's loops for every operation. See README.md.
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string>

#include "moe/sdk/backend.hpp"
#include "moe/sdk/loops.hpp"
#include "moe/sdk/numeric.hpp"
#include "moe/sdk/weight_format.hpp"

namespace {

constexpr uint64_t kAlignment = 64;  // a cache line, and the widest vector

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<void, Free>;

// What the machine has at all.
uint64_t physical_bytes() {
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page_bytes = sysconf(_SC_PAGESIZE);
  if (pages <= 0 || page_bytes <= 0) return std::numeric_limits<uint64_t>::max() / 2;
  return static_cast<uint64_t>(pages) * static_cast<uint64_t>(page_bytes);
}

// Zeroed. Zero bytes give a pointer too.
moe::Result<Memory> allocate(std::string_view what, uint64_t n_bytes) {
  const moe::Error error =
      moe::exhausted(std::string(what) + ": expected " + std::to_string(n_bytes) + " bytes of memory, got less; " +
                     "the machine has " + std::to_string(physical_bytes()));
  if (n_bytes > physical_bytes()) return error;  // would be promised, and missed when it is written to
  const uint64_t rounded = (std::max<uint64_t>(n_bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  Memory memory(std::aligned_alloc(kAlignment, rounded));
  if (memory == nullptr) return error;
  std::memset(memory.get(), 0, rounded);
  return memory;
}

}  // namespace

struct moe_weight {
  int64_t shape[3] = {};  // n_groups, n_out, n_in
  Memory memory;
  [[nodiscard]] float* row(int64_t group, int64_t at) const {
    return static_cast<float*>(memory.get()) + (group * shape[1] + at) * shape[2];
  }
};

struct moe_op {
  const moe::loops::LoopOp* loop;
};

namespace {

constexpr moe_backend_rows kRows = [] {
  auto rows = moe::make<moe_backend_rows>();
  rows.shape = [](const moe_weight* weight, int64_t shape[3]) { std::copy_n(weight->shape, 3, shape); };
  rows.row = [](const moe_weight* weight, int64_t group, int64_t row, float*) -> const float* {
    return weight->row(group, row);
  };
  return rows;
}();

constexpr moe_backend_score kScore = [] {
  auto score = moe::make<moe_backend_score>();
  score.score = [](moe_message*) -> int32_t { return 1; };
  return score;
}();

// To what values a weight is rounded: those of an encoding, each by itself (`type`), or "fp8".
struct Kept {
  const char* encoding;
  int32_t type;
  bool fp8;
};
moe::Result<Kept> kept_as(const moe_weight_source& source) {
  constexpr Kept kF32{"f32", MOE_F32, false};
  const std::string_view wanted = source.wanted == nullptr ? "auto" : source.wanted;
  if (wanted == "auto" || wanted == "f32") return kF32;
  if (wanted == "bf16") return Kept{"bf16", MOE_BF16, false};
  if (wanted == "f16") return Kept{"f16", MOE_F16, false};
  if (wanted == "fp8" && source.uses == MOE_USE_EMBED) return kF32;  // as choose_weight_format() says of tables
  if (wanted == "fp8") return Kept{"fp8", MOE_F32, true};
  return moe::unimplemented(
      "encoding: expected auto, f32, bf16, f16 or fp8 (what the backend reference can keep), got " +
      std::string(wanted));
}

// The bytes of the weight as f32, if they can be counted.
moe::Result<uint64_t> weight_bytes(const moe_weight_source& source) {
  const auto text = [&] {
    return std::to_string(source.n_groups) + " x [" + std::to_string(source.n_out) + ", " +
           std::to_string(source.n_in) + "]";
  };
  uint64_t n = sizeof(float);
  for (const int64_t size : {source.n_groups, source.n_out, source.n_in}) {
    if (size < 0 || __builtin_mul_overflow(n, static_cast<uint64_t>(size), &n)) {
      return moe::invalid("shape: expected one whose bytes can be counted, got " + text());
    }
  }
  return n;
}

// Reads matrix `group` as f32, in parts of about 64K elements, and rounds its values.
void read_group(const moe_weight_source& source, int64_t group, const Kept& kept, const moe_weight& weight) {
  struct Job {
    const moe_weight_source& source;
    const moe_weight& weight;
    int64_t group;
    int64_t n_rows;  // of a task
    const Kept& kept;
  };
  const int64_t n_rows = std::max<int64_t>(1, 65536 / std::max<int64_t>(source.n_in, 1));
  Job job{source, weight, group, kept.fp8 ? moe::kFp8Block : n_rows, kept};
  const auto run = [](void* context, int64_t task, int32_t) {
    const Job& j = *static_cast<const Job*>(context);
    const int64_t first = task * j.n_rows;
    const int64_t n = std::min(j.n_rows, j.source.n_out - first);
    float* out = j.weight.row(j.group, first);
    if (j.kept.fp8) return moe::read_fp8_as_f32(j.source, j.group, task, out);
    j.source.read_f32(j.source.context, j.group, first, n, out);
    if (j.kept.type != MOE_F32) moe::loops::round_row(j.kept.type, out, n * j.source.n_in, out);
  };
  const int64_t n_tasks = (source.n_out + job.n_rows - 1) / job.n_rows;
  if (moe::host() != nullptr && n_tasks > 1) {
    moe::host()->parallel_for(moe::host()->self, n_tasks, run, &job);
  } else {
    for (int64_t task = 0; task < n_tasks; ++task) run(&job, task, 0);
  }
  if (source.done != nullptr) source.done(source.context, group);
}

class Reference final : public moe::Backend {
 public:
  static constexpr const char* kName = "reference";
  static constexpr const char* kDoc =
      "Plain loops with sums in double: the definition of right that other backends are tested against.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT | MOE_CAP_REENTRANT;
  static const void* extension(const char* id) {
    if (std::string_view(id) == MOE_BACKEND_ROWS_ID) return &kRows;
    if (std::string_view(id) == MOE_BACKEND_SCORE_ID) return &kScore;
    return nullptr;
  }

  moe::Status open(const moe::Options&) override {
    for (size_t i = 0; i < ops_.size(); ++i) ops_[i].loop = &moe::loops::kOps[i];
    const int32_t threads = moe::loops::n_threads(context());
    device_name_ = "host memory, plain loops, " + std::to_string(threads) + (threads == 1 ? " thread" : " threads");
    return {};
  }

  [[nodiscard]] moe_backend_description describe() const override {
    auto d = moe::make<moe_backend_description>();
    d.device = moe::kHost;
    d.flags = MOE_BACKEND_HOST_VISIBLE;
    d.device_name = device_name_.c_str();
    return d;
  }

  moe::Result<moe_buffer> alloc(uint64_t n_bytes, int32_t memory) override {
    if (memory != MOE_MEMORY_DEVICE && memory != MOE_MEMORY_HOST_PINNED) {
      return moe::invalid("memory: expected MOE_MEMORY_DEVICE or MOE_MEMORY_HOST_PINNED, got " +
                          std::to_string(memory));
    }
    MOE_ASSIGN(Memory bytes, allocate("alloc", n_bytes));
    auto buffer = moe::make<moe_buffer>();
    buffer.data = bytes.get();
    buffer.n_bytes = n_bytes;
    buffer.device = moe::kHost;
    buffer.owner = bytes.release();
    buffer.release = [](moe_buffer* self) { Free()(self->owner); };
    return buffer;
  }

  moe::Status copy(void* to, const void* from, uint64_t n_bytes, int32_t, void*) override {
    if (n_bytes > 0) std::memmove(to, from, n_bytes);
    return {};
  }

  moe::Result<moe_prepared> prepare(const moe_weight_source& source) override {
    MOE_ASSIGN(const Kept kept, kept_as(source));
    MOE_ASSIGN(const uint64_t n_bytes, weight_bytes(source));
    auto weight = std::make_unique<moe_weight>();
    weight->shape[0] = source.n_groups;
    weight->shape[1] = source.n_out;
    weight->shape[2] = source.n_in;
    MOE_ASSIGN(weight->memory, allocate("prepare", n_bytes));
    for (int64_t g = 0; g < source.n_groups; ++g) read_group(source, g, kept, *weight);
    auto prepared = moe::make<moe_prepared>();
    prepared.encoding = kept.encoding;
    prepared.n_bytes = n_bytes;
    prepared.owner = prepared.weight = weight.release();
    prepared.release = [](moe_prepared* self) { delete static_cast<moe_weight*>(self->owner); };
    return prepared;
  }

  moe::Result<moe_op_info> find_op(std::string_view id, const moe_op_args& largest) override {
    for (const moe_op& op : ops_) {
      if (id != op.loop->id) continue;
      auto info = moe::make<moe_op_info>();
      info.op = &op;
      info.implementation = "loops";
      info.workspace_bytes = op.loop->workspace(largest, context());
      info.flags = kCapabilities;
      return info;
    }
    return moe::unimplemented("operation: expected one of moe/abi/ops.h, got " + std::string(id));
  }

  moe::Status launch(const moe_op& op, const moe_op_args& args, void*) override {
    return op.loop->run(args, context());
  }

  moe::Status sync(void*) override { return {}; }

 private:
  [[nodiscard]] static moe::loops::LoopContext context() { return {moe::host(), &kRows}; }

  std::array<moe_op, std::size(moe::loops::kOps)> ops_{};
  std::string device_name_;
};

}  // namespace

MOE_PLUGIN("backend_reference", "0.1.0", "Apache-2.0", "Patchbay", Reference)
