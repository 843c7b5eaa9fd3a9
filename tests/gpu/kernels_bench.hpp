// What the checks and the timings of kernels_bench share.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/ffn.hpp"
#include "kernels/matvec.hpp"
#include "kernels/weight.hpp"

namespace moe::cuda::bench {

// Ends the program with the call and its error.
void must(cudaError_t error, const char* what);
#define MUST(call) ::moe::cuda::bench::must((call), #call)

// Memory of the device.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t n) : n_(n) { MUST(cudaMalloc(&data_, static_cast<size_t>(n > 0 ? n : 1) * sizeof(T))); }
  explicit Buffer(const std::vector<T>& values) : Buffer(static_cast<int64_t>(values.size())) {
    MUST(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~Buffer() { cudaFree(data_); }
  Buffer(Buffer&& other) noexcept : data_(other.data_), n_(other.n_) { other.data_ = nullptr; }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(n_, other.n_);
    return *this;
  }
  [[nodiscard]] T* data() const { return static_cast<T*>(data_); }
  [[nodiscard]] int64_t size() const { return n_; }
  [[nodiscard]] std::vector<T> read() const {
    std::vector<T> out(static_cast<size_t>(n_));
    MUST(cudaMemcpy(out.data(), data_, out.size() * sizeof(T), cudaMemcpyDeviceToHost));
    return out;
  }
  // Every byte 0xFF: NaN as floats, so that what is not written shows.
  void poison() { MUST(cudaMemset(data_, 0xFF, static_cast<size_t>(n_) * sizeof(T))); }

 private:
  void* data_ = nullptr;
  int64_t n_ = 0;
};

// Numbers that depend on (seed, index) alone.
uint64_t hash(uint64_t seed, uint64_t index);
float uniform(uint64_t seed, uint64_t index);  // [-1, 1)

// A weight packed on the host, and what its elements stand for.
struct HostWeight {
  std::vector<float> values;  // [n_groups, n_out, n_in]
  Buffer<char> memory;
  WeightView view{};
};
HostWeight make_weight(Format format, int64_t n_groups, int64_t n_out, int64_t n_in, uint64_t seed);

// A weight of random bits, made on the device.
struct DeviceWeight {
  Buffer<char> memory;
  WeightView view{};
  [[nodiscard]] double row_bytes_with_scales() const;
};
DeviceWeight random_weight(Format format, int64_t n_groups, int64_t n_out, int64_t n_in, uint64_t seed);
void fill_uniform(float* out, int64_t n, uint64_t seed);

const char* name_of(Format format);
const char* name_of_activation(int32_t activation);

// Rows as a product wants them (moe/sdk/loops.hpp).
void round_row(int32_t activation, const float* x, int64_t n, float* out);

// Lines of the table that ends a run.
class Report {
 public:
  explicit Report(std::string filter) : filter_(std::move(filter)) {}
  [[nodiscard]] bool wants(const std::string& name) const { return name.find(filter_) != std::string::npos; }
  void checked(const std::string& name, double error, double limit);  // NaN fails
  void timed(const std::string& name, double us, double bytes, double flops);
  void print() const;
  [[nodiscard]] int n_failed() const { return n_failed_; }
  double read_gbps = 0;  // the card's, measured

 private:
  std::string filter_;
  std::vector<std::string> lines_;
  int n_failed_ = 0;
  int n_checked_ = 0;
};

// Microseconds of one of the `n` launches that enqueue(stream, i) makes: the median of replays of a graph of all of
// them.
template <typename Enqueue>
double time_us(int n, Enqueue&& enqueue) {
  cudaStream_t stream = nullptr;
  MUST(cudaStreamCreate(&stream));
  enqueue(stream, 0);
  MUST(cudaStreamSynchronize(stream));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  for (int i = 0; i < n; ++i) enqueue(stream, i);
  MUST(cudaStreamEndCapture(stream, &graph));
  MUST(cudaGraphInstantiate(&exec, graph, 0));
  constexpr int kReplays = 7;
  std::vector<float> ms(kReplays);
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  MUST(cudaEventCreate(&begin));
  MUST(cudaEventCreate(&end));
  // The card's clocks rise only after some tens of milliseconds of work.
  for (double busy = 0; busy < 60;) {
    MUST(cudaEventRecord(begin, stream));
    MUST(cudaGraphLaunch(exec, stream));
    MUST(cudaEventRecord(end, stream));
    MUST(cudaEventSynchronize(end));
    MUST(cudaEventElapsedTime(&ms[0], begin, end));
    busy += std::max(ms[0], 0.1F);
  }
  for (float& one : ms) {
    MUST(cudaEventRecord(begin, stream));
    MUST(cudaGraphLaunch(exec, stream));
    MUST(cudaEventRecord(end, stream));
    MUST(cudaEventSynchronize(end));
    MUST(cudaEventElapsedTime(&one, begin, end));
  }
  std::sort(ms.begin(), ms.end());
  MUST(cudaEventDestroy(begin));
  MUST(cudaEventDestroy(end));
  MUST(cudaGraphExecDestroy(exec));
  MUST(cudaGraphDestroy(graph));
  MUST(cudaStreamDestroy(stream));
  return static_cast<double>(ms[kReplays / 2]) * 1e3 / n;
}

void check_matvec(Report& report);
void check_ffn(Report& report);
void time_memory(Report& report);
void time_matvec(Report& report);
void time_ffn(Report& report);

}  // namespace moe::cuda::bench
