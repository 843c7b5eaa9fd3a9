// Weights of the backend: where they lie on the device, and how they get there.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <memory>
#include <mutex>
#include <vector>

#include "error.hpp"
#include "kernels/weight.hpp"
#include "moe/abi/backend.h"

// The backend's weight.
struct moe_weight {
  moe::cuda::WeightView view{};
  void* memory = nullptr;  // elements, then scales
  uint64_t n_bytes = 0;
  uint64_t scales_offset = 0;
  // A copy for reading rows on the host (moe.backend.rows/1), made when the first is asked for.
  mutable std::once_flag copied;
  mutable std::vector<char> on_host;

  moe_weight() = default;
  ~moe_weight();
  moe_weight(const moe_weight&) = delete;
  moe_weight& operator=(const moe_weight&) = delete;
};

namespace moe::cuda {

const char* format_name(Format format);

// Streams bytes to the device through a ring of pinned buffers, so that the next part is filled while the last one
// travels.
class Uploader {
 public:
  static constexpr uint64_t kSlotBytes = uint64_t{8} << 20;
  Uploader() = default;
  ~Uploader();
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;

  Status open();
  // The next buffer, of kSlotBytes, once its last contents have left. [main-thread]
  Result<char*> next();
  // Enqueues bytes of the buffer that next() gave.
  Status send(void* to, const char* from, uint64_t n_bytes);
  // Waits until everything has arrived.
  Status finish();

 private:
  static constexpr int kSlots = 4;
  cudaStream_t stream_ = nullptr;
  std::array<char*, kSlots> slots_{};
  std::array<cudaEvent_t, kSlots> sent_{};
  int at_ = 0;
};

// Packs a weight and sends it to the device, source.done after each matrix. MOE_INVALID_ARGUMENT: a shape that cannot
// be counted; MOE_UNIMPLEMENTED: `wanted` is not an encoding of this backend's; MOE_RESOURCE_EXHAUSTED: too little
// memory. [main-thread]
Result<moe_prepared> prepare_weight(const moe_weight_source& source, Uploader& uploader);

// Rows read back from the device: for tests and tools, slow.
extern const moe_backend_rows kRowsExtension;

}  // namespace moe::cuda
