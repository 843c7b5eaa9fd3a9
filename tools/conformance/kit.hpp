// What the tests of one process share: the library under test with a host that watches it, and a backend to run on.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tools/conformance/check.hpp"
#include "tools/conformance/compute.hpp"

namespace patchbay::conformance {

// Sets of options worth trying: the defaults (with what the person gave), then each option at its bounds and choices in
// turn.
std::vector<std::vector<GivenOption>> option_variants(const moe_component& component,
                                                      const std::vector<GivenOption>& base);
// "k = 3, score = sigmoid"; "defaults".
std::string to_text(const std::vector<GivenOption>& given);

// Some rows of n, in the given order.
template <typename T>
std::vector<T> rows_of(const std::vector<T>& all, int64_t n, const std::vector<int64_t>& rows) {
  const size_t width = n > 0 ? all.size() / static_cast<size_t>(n) : 0;
  std::vector<T> out;
  for (const int64_t i : rows) {
    for (size_t c = 0; c < width; ++c) out.push_back(all[static_cast<size_t>(i) * width + c]);
  }
  return out;
}

class Kit {
 public:
  static constexpr int32_t kThreads = 3;

  // Loads the library; finds the component where one is named.
  static moe::Result<std::unique_ptr<Kit>> open(const CheckContext& context);

  [[nodiscard]] CheckHost& host() { return *host_; }
  [[nodiscard]] const CheckOptions& options() const { return *options_; }
  [[nodiscard]] const Library& library() const { return *library_; }
  [[nodiscard]] const moe_component& header() const { return *component_; }
  [[nodiscard]] const std::string& kind() const { return kind_; }
  // The component as its kind's struct.
  template <typename T>
  [[nodiscard]] Component<T> component() const {
    return {reinterpret_cast<const T*>(component_), library_};
  }
  // Options that the person gave for this component, over its defaults.
  [[nodiscard]] const std::vector<GivenOption>& given() const { return given_; }
  // The backend that routers and experts run on; opened when it is first asked for.
  moe::Result<Compute*> compute();
  void close_compute() { compute_.reset(); }

 private:
  Kit() = default;
  std::unique_ptr<CheckHost> host_;
  const CheckOptions* options_ = nullptr;
  std::string kind_;
  std::shared_ptr<Library> library_;
  const moe_component* component_ = nullptr;
  std::vector<GivenOption> given_;
  std::unique_ptr<Compute> compute_;
};

}  // namespace patchbay::conformance
