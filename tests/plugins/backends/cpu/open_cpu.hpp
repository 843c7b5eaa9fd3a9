// Opens the backend `cpu` with an instruction set.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "moe/sdk/loops.hpp"
#include "support/plugin_library.hpp"
#include "support/test_host.hpp"
#include "tools/conformance/ops/op_run.hpp"

namespace patchbay::test {

using namespace conformance;  // NOLINT: the cases and their runs

// The library and an instance with simd = `simd`; `backend()` is null where this machine cannot run it.
class OpenCpu {
 public:
  OpenCpu(const TestHost& host, const char* simd) {
    auto library = PluginLibrary::open("cpu", host.get());
    EXPECT_TRUE(library.ok()) << library.error().message;
    if (!library.ok()) return;
    library_ = std::move(library).value();
    auto opened = BackendUnderTest::open(*library_->backend("cpu"), host.get(), {{"simd", std::string(simd), ""}});
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
  std::unique_ptr<BackendUnderTest> backend_;
  moe::Error error_;
};

}  // namespace patchbay::test
