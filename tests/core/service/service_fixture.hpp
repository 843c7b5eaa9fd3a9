#pragma once

#include "fake_engine.hpp"
#include "reader.hpp"
#include "text_fixture.hpp"

namespace patchbay::testing {

struct ServiceTest : ::testing::Test {
  ServiceTest() { make({}); }
  ~ServiceTest() override { engine.stop(); }
  void make(const ServiceOptions& options) {
    v1::Info info;
    info.set_model("echo");
    service = std::make_unique<Service>(engine, *model, metrics, info, options);
  }
  void run() {
    while (engine.step()) {
    }
  }
  double metric(std::string_view name) const {
    const v1::Metrics all = service->metrics();
    for (const auto& m : all.metrics()) {
      if (m.name() == name) return m.value();
    }
    return -1;
  }

  FakeEngine engine;
  std::unique_ptr<TextModel> model = byte_model();
  Metrics metrics;
  std::unique_ptr<Service> service;
};

}  // namespace patchbay::testing
