// Runs cases on a backend plugin and compares the answers with the SDK's loops.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/plugin/options.hpp"
#include "tools/conformance/ops/op_cases.hpp"

namespace patchbay::conformance {

// An opened backend. The host and the library outlive it.
class BackendUnderTest {
 public:
  // With `given` options; the others have their defaults.
  static moe::Result<std::unique_ptr<BackendUnderTest>> open(const moe_backend& backend, const moe_host* host,
                                                             const std::vector<GivenOption>& given = {});
  ~BackendUnderTest();
  BackendUnderTest(const BackendUnderTest&) = delete;
  BackendUnderTest& operator=(const BackendUnderTest&) = delete;

  [[nodiscard]] const moe_backend& backend() const { return backend_; }
  [[nodiscard]] moe_backend_instance* instance() const { return instance_; }
  [[nodiscard]] const moe_backend_description& description() const { return description_; }
  [[nodiscard]] const moe_backend_rows* rows() const { return rows_; }

 private:
  explicit BackendUnderTest(const moe_backend& backend)
      : backend_(backend), description_(moe::make<moe_backend_description>()) {}

  const moe_backend& backend_;
  moe_backend_instance* instance_ = nullptr;
  moe_backend_description description_;
  const moe_backend_rows* rows_ = nullptr;
};

// What came of a case.
struct Outcome {
  enum Kind { kSame, kRefused, kWrong } kind = kSame;
  std::string text;       // why it is refused, or what is wrong
  std::deque<Array> got;  // the arrays after the call
};

class CaseRun {
 public:
  // Weights are kept as `wanted` (moe_weight_source.wanted).
  CaseRun(const BackendUnderTest& under_test, const OpCase& op_case, const char* wanted)
      : t_(under_test), b_(under_test.backend()), c_(op_case), wanted_(wanted) {}
  ~CaseRun();
  CaseRun(const CaseRun&) = delete;
  CaseRun& operator=(const CaseRun&) = delete;

  // `n_rows`: only the first rows of the call; negative: all of them.
  Outcome run(int64_t n_rows = -1);

  // The steps of run(): weights, shapes and memory; the launch alone; what came of it, with the canaries around each
  // buffer looked at.
  moe::Status prepare(int64_t n_rows = -1);
  // Other values, in the same memory: those of a case of the same shapes.
  moe::Status refill(const OpCase& other);
  moe::Status launch();
  moe::Status collect();
  [[nodiscard]] const OpCase& op_case() const { return c_; }
  // After prepare(): bytes that the backend keeps for each element of the weights; 0 without weights.
  [[nodiscard]] double bytes_per_weight() const;
  // After collect(): the arrays.
  [[nodiscard]] const std::deque<Array>& got() const { return got_; }
  // After prepare().
  [[nodiscard]] const moe_op_info& info() const { return info_; }
  moe_op_args& header() { return reinterpret_cast<moe_op_args&>(*args_.data()); }

  // The whole case, and what differs from the loops. `spoil` changes the answer before it is compared: to test the
  // comparison.
  Outcome compare(const std::function<void(std::deque<Array>&)>& spoil = {});

 private:
  using Args = std::vector<uint64_t>;

  static constexpr size_t kCanary = 64;

  moe::Status prepare_weights();
  // The loops multiply with what the backend has made of the weights, or with the weights themselves if it does not
  // tell.
  [[nodiscard]] const moe_backend_rows* loop_rows() const;
  [[nodiscard]] const moe_weight* loop_weight(size_t i) const;
  WeightRow weight_row();
  moe_tensor& tensor_at(Args& args, size_t offset) const;
  Args make_args(moe_device device, bool loop_weights, const std::function<void*(const OpCase::Slot&)>& data_of) const;
  Args bind(std::deque<Array>& arrays) const;
  moe::Result<void*> to_device(const void* from, int64_t n_bytes);
  moe::Status from_device(void* to, const void* data, int64_t n_bytes, const std::string& what);
  // The first element that is too far off; NaN is, unless NaN is wanted.
  [[nodiscard]] std::string difference(const std::deque<Array>& want, const std::deque<Array>& got,
                                       const Tolerances& tolerances) const;

  const BackendUnderTest& t_;
  const moe_backend& b_;
  const OpCase& c_;
  const char* wanted_;
  int64_t n_rows_ = 0;
  moe_op_info info_{};
  Args args_;
  std::vector<void*> data_;
  void* workspace_ = nullptr;
  std::vector<moe_prepared> prepared_;
  std::deque<moe_buffer> buffers_;
  std::deque<Array> got_;
  std::vector<float> scratch_;
};

}  // namespace patchbay::conformance
