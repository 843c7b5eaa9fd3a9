// An engine on a golden checkpoint, put together as the program does it, with sinks that write down what became of each
// request.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/config/settings.hpp"
#include "core/engine/engine.hpp"
#include "core/engine/model.hpp"
#include "core/engine/sampling.hpp"
#include "core/plugin/host.hpp"
#include "core/plugin/registry.hpp"
#include "tests/e2e/fixtures.hpp"

namespace patchbay::e2e {

// What came of a request.
struct Record final : RequestSink {
  std::vector<int32_t> tokens;
  int n_ends = 0;
  bool token_after_end = false;
  FinishReason reason = FinishReason::kFailed;
  std::optional<moe::Error> error;
  RequestUsage usage;

  void on_token(uint64_t /*request*/, const TokenOut& token) override {
    token_after_end = token_after_end || n_ends > 0;
    tokens.push_back(token.id);
  }
  void on_end(uint64_t /*request*/, FinishReason why, const moe::Error* what, const RequestUsage& used) override {
    ++n_ends;
    reason = why;
    if (what != nullptr) error = *what;
    usage = used;
  }
};

// Host, plugins and one model with its engine; `sets` are overrides as the command line takes them, `wrap` gives what
// the engine gets in place of the model.
class TestEngine {
 public:
  using Wrap = std::function<std::shared_ptr<Model>(std::shared_ptr<Model>)>;
  explicit TestEngine(const std::string& fixture, const std::vector<std::string>& sets = {}, const Wrap& wrap = {}) {
    open(fixture, sets, wrap);
  }
  [[nodiscard]] bool ok() const { return engine_ != nullptr; }
  Engine* operator->() { return engine_.get(); }

  // Steps until nothing is left, at most so many times: an engine that stands still fails the test instead of hanging
  // it.
  void run(int most_steps = 20'000) {
    while (engine_->step()) {
      if (--most_steps == 0) {
        ADD_FAILURE() << "the engine still has work after so many steps";
        return;
      }
    }
  }

 private:
  void open(const std::string& fixture, const std::vector<std::string>& sets, const Wrap& wrap) {
    auto settings = load_settings("", sets);
    ASSERT_TRUE(settings.ok()) << settings.error().message;
    settings->model.path = fixture_dir(fixture);
    settings->architecture_paths.emplace_back(PATCHBAY_SOURCE_DIR "/configs/architectures");
    if (settings->backends.empty()) settings->backends.push_back({"cpu", {}, "test"});
    host_ = std::make_unique<Host>(2);
    RegistryOptions plugins;
    plugins.search_paths = {PATCHBAY_BINARY_DIR "/tests/e2e_working", PATCHBAY_BINARY_DIR "/lib/patchbay/plugins"};
    plugins.probe_program = PATCHBAY_BINARY_DIR "/bin/patchbay";
    plugins.cache_file = PATCHBAY_BINARY_DIR "/tests/e2e_cache/engine/plugins.json";
    registry_ = PluginRegistry::scan(std::move(plugins), *host_);
    auto model = Model::load(*settings, registry_, *host_, [](uint64_t, uint64_t) {});
    ASSERT_TRUE(model.ok()) << model.error().message;
    auto chain = SamplerChain::build(settings->samplers, *registry_, (*model)->spec().n_vocab);
    ASSERT_TRUE(chain.ok()) << chain.error().message;
    EngineOptions options;
    options.batch_size = settings->engine.batch_size;
    options.batch_tokens = settings->engine.batch_tokens;
    options.queue = settings->engine.queue;
    options.queue_s = static_cast<double>(settings->engine.queue_ms) / 1e3;
    options.page_tokens = settings->engine.page_tokens;
    options.prefix_cache = settings->engine.prefix_cache;
    auto engine = Engine::create(wrap ? wrap(*model) : *model, *chain, options);
    ASSERT_TRUE(engine.ok()) << engine.error().message;
    engine_ = std::move(*engine);
  }

  // In the order in which they must outlive each other.
  std::unique_ptr<Host> host_;
  std::shared_ptr<PluginRegistry> registry_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace patchbay::e2e
