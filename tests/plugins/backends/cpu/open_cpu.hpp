// Opens the backend `cpu` with an instruction set.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "op_runner.hpp"

namespace patchbay::test {

// The library and an instance with simd = `simd`; `backend()` is null where this machine cannot run it.
class OpenCpu {
 public:
  OpenCpu(const TestHost& host, const char* simd) {
    auto library = PluginLibrary::open("cpu", host.get());
    EXPECT_TRUE(library.ok()) << library.error().message;
    if (!library.ok()) return;
    library_ = std::move(library).value();
    table_ = *library_->backend("cpu");
    options_.assign(table_.component.options, table_.component.options + table_.component.n_options);
    for (moe_option& o : options_) {
      if (std::string_view(o.key) == "simd") o.default_text = simd;
    }
    table_.component.options = options_.data();
    auto opened = BackendUnderTest::open(table_, host.get());
    if (opened.ok()) {
      backend_ = std::move(opened).value();
    } else {
      error_ = opened.error();
    }
  }
  [[nodiscard]] const BackendUnderTest* backend() const { return backend_.get(); }
  [[nodiscard]] const moe::Error& error() const { return error_; }

 private:
  std::unique_ptr<PluginLibrary> library_;
  std::vector<moe_option> options_;
  moe_backend table_{};
  std::unique_ptr<BackendUnderTest> backend_;
  moe::Error error_;
};

}  // namespace patchbay::test
