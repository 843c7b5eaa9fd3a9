// The backend `cpu`. See README.md.
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels.hpp"
#include "moe/sdk/backend.hpp"
#include "ops.hpp"
#include "parallel.hpp"
#include "weight.hpp"

struct moe_op {
  const moe::cpu::OpRow* row;
};

namespace moe::cpu {
namespace {

constexpr const char* kSimd[] = {"auto", "amx",  "avx512_bf16", "avx512_vnni", "avx512",
                                 "avx2", "neon", "portable",    nullptr};

constexpr moe_backend_score kScore = [] {
  auto score = make<moe_backend_score>();
  score.score = [](moe_message*) -> int32_t {
    return select_kernels("auto")->name == std::string_view("portable") ? 10 : 50;
  };
  return score;
}();

class Cpu final : public Backend {
 public:
  static constexpr const char* kName = "cpu";
  static constexpr const char* kDoc =
      "SIMD kernels for the instruction sets of x86-64 and AArch64, chosen at run time.";
  static constexpr uint32_t kCapabilities = MOE_CAP_DETERMINISTIC | MOE_CAP_BATCH_INVARIANT;
  static constexpr moe_option kOptions[] = {
      choice_option("simd", "auto", kSimd,
                    "The instruction set: the best that this machine has, or a lesser one to compare with. The same "
                    "bits come from all "
                    "but portable, except that amx and avx512_bf16 multiply bf16 weights by bf16 activations with "
                    "instructions of their own."),
  };
  static const void* extension(const char* id) {
    if (std::string_view(id) == MOE_BACKEND_ROWS_ID) return &kRowsExtension;
    if (std::string_view(id) == MOE_BACKEND_PACKED_ID) return &kPackedExtension;
    if (std::string_view(id) == MOE_BACKEND_SCORE_ID) return &kScore;
    return nullptr;
  }

  Status open(const Options& options) override {
    const std::string_view simd = options.text("simd");
    kernels_ = select_kernels(simd.empty() ? "auto" : simd);
    if (kernels_ == nullptr) {
      return precondition("simd: expected an instruction set that this machine and this build have (of " +
                          kernel_names() + "), got " + std::string(simd));
    }
    for (const auto& rows : {small_ops(), matmul_ops(), ffn_ops(), attention_ops()}) {
      for (const OpRow& row : rows) ops_.push_back({&row});
    }
    const int32_t threads = n_threads();
    device_name_ = std::string("host memory, ") + kernels_->name + ", " + std::to_string(threads) +
                   (threads == 1 ? " thread" : " threads");
    return {};
  }

  [[nodiscard]] moe_backend_description describe() const override {
    auto d = make<moe_backend_description>();
    d.device = kHost;
    d.flags = MOE_BACKEND_HOST_VISIBLE;
    d.device_name = device_name_.c_str();
    return d;
  }

  Result<moe_buffer> alloc(uint64_t n_bytes, int32_t memory) override {
    if (memory != MOE_MEMORY_DEVICE && memory != MOE_MEMORY_HOST_PINNED) {
      return invalid("memory: expected MOE_MEMORY_DEVICE or MOE_MEMORY_HOST_PINNED, got " + std::to_string(memory));
    }
    auto bytes = std::make_unique<Memory>(std::max<uint64_t>(n_bytes, 1));
    if (bytes->data() == nullptr) return exhausted("alloc: expected " + std::to_string(n_bytes) + " bytes, got less");
    auto buffer = make<moe_buffer>();
    buffer.data = bytes->data();
    buffer.n_bytes = n_bytes;
    buffer.device = kHost;
    buffer.owner = bytes.release();
    buffer.release = [](moe_buffer* self) { delete static_cast<Memory*>(self->owner); };
    return buffer;
  }

  Status copy(void* to, const void* from, uint64_t n_bytes, int32_t, void*) override {
    if (n_bytes > 0) std::memmove(to, from, n_bytes);
    return {};
  }

  Result<moe_prepared> prepare(const moe_weight_source& source) override { return prepare_weight(*kernels_, source); }

  Result<moe_op_info> find_op(std::string_view id, const moe_op_args& largest) override {
    for (const moe_op& op : ops_) {
      if (id != op.row->id) continue;
      if ((largest.must_understand & ~op.row->known) != 0) {
        return unimplemented("must_understand: expected bits of " + std::to_string(op.row->known) + ", got " +
                             std::to_string(largest.must_understand));
      }
      auto info = make<moe_op_info>();
      info.op = &op;
      info.implementation = kernels_->name;
      info.workspace_bytes = op.row->workspace(*kernels_, largest);
      info.flags = kCapabilities;
      return info;
    }
    return unimplemented("operation: expected one of moe/abi/ops.h, got " + std::string(id));
  }

  Status launch(const moe_op& op, const moe_op_args& args, void*) override { return op.row->run(*kernels_, args); }

  Status sync(void*) override { return {}; }

 private:
  const Kernels* kernels_ = nullptr;
  std::vector<moe_op> ops_;
  std::string device_name_;
};

}  // namespace
}  // namespace moe::cpu

MOE_PLUGIN("backend_cpu", "0.1.0", "Apache-2.0", "Patchbay", moe::cpu::Cpu)
