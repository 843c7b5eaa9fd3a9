// A CUDA stream as the kit looks at it: held back, to see who waits for it, and captured into a graph. By the driver's
// own functions, which are looked up at run time, so that nothing of CUDA is needed to build.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>

#include "moe/sdk/result.hpp"

namespace patchbay::conformance {

class CudaStream {
 public:
  // Of the calling thread's current context. Null where there is no driver.
  static std::unique_ptr<CudaStream> of(void* stream);
  ~CudaStream();
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  // What is enqueued from now on runs only when the gate opens, or after kPatience: a call that waits for the stream is
  // found, and does not hang the test.
  static constexpr int kPatienceMs = 2000;
  moe::Status close_gate();
  // Whether it was closed until now.
  bool open_gate();

  // Between the two, what is enqueued becomes a graph and does not run.
  moe::Status begin_capture();
  moe::Status end_capture();
  // Runs the graph to its end.
  moe::Status replay();

 private:
  struct Driver;
  explicit CudaStream(void* stream) : stream_(stream) {}
  static const Driver* driver();
  static void wait_at_gate(void* self);

  void* stream_;
  void* graph_ = nullptr;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  bool gave_up_ = false;
};

}  // namespace patchbay::conformance
