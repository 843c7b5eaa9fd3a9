// A plugin that uses what is known to leak symbols and to pin a library after dlclose: shared pointers, std::function,
// static locals of inline templates, thread-local state, exceptions, and the standard library's own unique symbols.
#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "moe/sdk/router.hpp"

template <typename T>
inline std::vector<T>& remembered() {
  static std::vector<T> values;
  return values;
}

struct Shared {
  std::map<std::string, std::vector<std::shared_ptr<float>>> by_name;
};

class Sticky : public moe::HostRouter {
 public:
  static constexpr const char* kName = "sticky";
  static constexpr const char* kDoc = "The best expert, found in a roundabout way.";

  moe::Status setup(const moe::RouterConfig& config, const moe::Options&) override {
    if (config.n_experts == 13) throw std::runtime_error("thirteen");
    if (config.n_experts == 14) throw 14;
    std::ostringstream text;
    text << "layer " << config.layer;
    shared_ = std::make_shared<Shared>();
    shared_->by_name[text.str()].push_back(std::make_shared<float>(1.0F));
    better_ = [shared = shared_](float a, float b) { return shared->by_name.size() == 1 && a > b; };
    remembered<std::string>().push_back(text.str());
    return {};
  }
  [[nodiscard]] int64_t k_max() const override { return 1; }
  void score(const moe::RouterToken& token, moe::Choice& choice) override {
    thread_local int64_t n_calls = 0;
    ++n_calls;
    int32_t best = 0;
    for (size_t e = 1; e < token.logits.size(); ++e) {
      if (better_(token.logits[e], token.logits[static_cast<size_t>(best)])) best = static_cast<int32_t>(e);
    }
    choice.add(best, 1.0F);
  }

 private:
  std::shared_ptr<Shared> shared_;
  std::function<bool(float, float)> better_;
};

MOE_PLUGIN("sticky", "0.1.0", "MIT", "Patchbay", Sticky)
