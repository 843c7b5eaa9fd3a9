// A transport plugin as it is loaded, over a service over an engine that echoes.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "core/plugin/host.hpp"
#include "core/plugin/library.hpp"
#include "core/plugin/options.hpp"
#include "core/service/service.hpp"
#include "tests/core/service/fake_engine.hpp"
#include "tests/core/service/text_fixture.hpp"

namespace patchbay::testing {

using std::chrono::milliseconds;

struct TransportTest : ::testing::Test {
  // `plugin`: the library's name; `any`: the address of any free port.
  TransportTest(std::string plugin, std::string any) : plugin_(std::move(plugin)), any_(std::move(any)) {}

  void SetUp() override {
    const std::string path = std::string(PATCHBAY_BINARY_DIR) + "/lib/patchbay/plugins/" + plugin_ + ".so";
    auto loaded = Library::load(path, host.abi());
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    library = std::move(loaded).value();
    const auto components = library->components(MOE_TRANSPORT_ID);
    ASSERT_EQ(components.size(), 1U);
    table = reinterpret_cast<const moe_transport*>(components[0]);
  }
  void TearDown() override {
    stop();
    engine.stop();
    service.reset();
  }

  // The error of creating it, or nothing.
  std::string create(const std::map<std::string, std::string>& given) {
    given_ = given;
    const std::vector<moe_option_value> values = given_values();
    char text[512] = "";
    moe_message message{text, sizeof text, 0};
    const moe_status status =
        table->create(host.abi(), values.data(), static_cast<uint32_t>(values.size()), &transport, &message);
    return status == MOE_OK ? "" : text;
  }
  // What the transport was created with, as values of its options.
  std::vector<moe_option_value> given_values() {
    std::vector<moe_option_value> values;
    texts.clear();
    for (uint32_t i = 0; i < table->component.n_options; ++i) {
      const moe_option& o = table->component.options[i];
      const auto found = given_.find(o.key);
      const std::string& text = texts.emplace_back(found == given_.end() ? o.default_text : found->second);
      moe_option_value v{};
      v.key = o.key;
      v.type = o.type;
      if (o.type == MOE_OPTION_STRING) v.value.s = text.c_str();
      if (o.type == MOE_OPTION_INT) v.value.i = std::stoll(text);
      if (o.type == MOE_OPTION_BOOL) v.value.i = text == "true" ? 1 : 0;
      values.push_back(v);
    }
    return values;
  }
  void serve(const std::map<std::string, std::string>& given = {}, const ServiceOptions& options = {}) {
    ASSERT_EQ(try_to_serve(given, options), "");
    address = table->address(transport);
  }
  // The error of starting it, or nothing.
  std::string try_to_serve(std::map<std::string, std::string> given, const ServiceOptions& options = {}) {
    given.emplace("bind", any_);
    service = std::make_unique<Service>(engine, *model, metrics, info, options);
    engine.before_step = [this] { std::this_thread::sleep_for(step.load()); };
    engine.start();
    if (std::string wrong = create(given); !wrong.empty()) return wrong;
    char text[512] = "";
    moe_message message{text, sizeof text, 0};
    return table->start(transport, service->abi(), &message) == MOE_OK ? "" : text;
  }
  void stop(int64_t grace_ms = 0) {
    if (transport == nullptr) return;
    table->stop(transport, grace_ms);
    table->destroy(std::exchange(transport, nullptr));
  }
  bool eventually(const std::function<bool()>& holds) {
    for (int i = 0; i < 1000; ++i) {
      if (holds()) return true;
      std::this_thread::sleep_for(milliseconds(5));
    }
    return false;
  }
  double n_connections() const {
    const v1::Metrics all = service->metrics();
    for (const auto& m : all.metrics()) {
      if (m.name() == "patchbay_connections") return m.value();
    }
    return -1;
  }

  Host host{1};
  std::shared_ptr<Library> library;
  const moe_transport* table = nullptr;
  moe_transport_instance* transport = nullptr;
  std::deque<std::string> texts;
  std::string address;
  FakeEngine engine;
  std::atomic<std::chrono::microseconds> step = std::chrono::microseconds(0);  // what a step takes
  std::unique_ptr<TextModel> model = byte_model();
  Metrics metrics;
  std::unique_ptr<Service> service;
  v1::Info info;

 private:
  const std::string plugin_;
  const std::string any_;
  std::map<std::string, std::string> given_;
};

}  // namespace patchbay::testing
