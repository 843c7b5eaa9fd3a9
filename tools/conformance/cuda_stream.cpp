#include "tools/conformance/cuda_stream.hpp"

#include <dlfcn.h>

#include <chrono>
#include <string>

#include "tools/conformance/hook_control.hpp"

namespace patchbay::conformance {

// As cuda.h declares them: handles are pointers, results are 0 or an error.
struct CudaStream::Driver {
  int (*launch_host_function)(void* stream, void (*function)(void*), void* data);
  int (*begin_capture)(void* stream, int mode);
  int (*end_capture)(void* stream, void** graph);
  int (*instantiate)(void** executable, void* graph, unsigned long long flags);
  int (*launch)(void* executable, void* stream);
  int (*synchronize)(void* stream);
  int (*destroy_executable)(void* executable);
  int (*destroy_graph)(void* graph);
};

const CudaStream::Driver* CudaStream::driver() {
  static const auto found = []() -> std::unique_ptr<Driver> {
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return nullptr;
    auto d = std::make_unique<Driver>();
    bool all = true;
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      all = all && function != nullptr;
    };
    find(d->launch_host_function, "cuLaunchHostFunc");
    find(d->begin_capture, "cuStreamBeginCapture_v2");
    find(d->end_capture, "cuStreamEndCapture");
    find(d->instantiate, "cuGraphInstantiateWithFlags");
    find(d->launch, "cuGraphLaunch");
    find(d->synchronize, "cuStreamSynchronize");
    find(d->destroy_executable, "cuGraphExecDestroy");
    find(d->destroy_graph, "cuGraphDestroy");
    return all ? std::move(d) : nullptr;
  }();
  return found.get();
}

namespace {

moe::Status done(int result, const char* what) {
  if (result == 0) return {};
  return moe::internal(std::string(what) + ": expected CUDA_SUCCESS, got error " + std::to_string(result));
}

}  // namespace

std::unique_ptr<CudaStream> CudaStream::of(void* stream) {
  if (driver() == nullptr) return nullptr;
  return std::unique_ptr<CudaStream>(new CudaStream(stream));
}

CudaStream::~CudaStream() {
  if (graph_ != nullptr) driver()->destroy_executable(graph_);
}

void CudaStream::wait_at_gate(void* self) {
  const HostCode mine;
  auto& s = *static_cast<CudaStream*>(self);
  std::unique_lock lock(s.mutex_);
  s.gave_up_ = !s.changed_.wait_for(lock, std::chrono::milliseconds(kPatienceMs), [&] { return s.open_; });
}

moe::Status CudaStream::close_gate() {
  {
    const std::lock_guard lock(mutex_);
    open_ = gave_up_ = false;
  }
  return done(driver()->launch_host_function(stream_, wait_at_gate, this), "cuLaunchHostFunc");
}

bool CudaStream::open_gate() {
  bool was_closed = false;
  {
    const std::lock_guard lock(mutex_);
    was_closed = !gave_up_;
    open_ = true;
  }
  changed_.notify_all();
  driver()->synchronize(stream_);
  return was_closed;
}

moe::Status CudaStream::begin_capture() {
  constexpr int kThisThreadOnly = 1;
  return done(driver()->begin_capture(stream_, kThisThreadOnly), "cuStreamBeginCapture");
}

moe::Status CudaStream::end_capture() {
  void* graph = nullptr;
  MOE_TRY(done(driver()->end_capture(stream_, &graph), "cuStreamEndCapture"));
  const auto status = done(driver()->instantiate(&graph_, graph, 0), "cuGraphInstantiate");
  driver()->destroy_graph(graph);
  return status;
}

moe::Status CudaStream::replay() {
  MOE_TRY(done(driver()->launch(graph_, stream_), "cuGraphLaunch"));
  return done(driver()->synchronize(stream_), "cuStreamSynchronize");
}

}  // namespace patchbay::conformance
