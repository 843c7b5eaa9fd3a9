// Any bytes as a ClientMessage: the service answers or refuses, and every stream ends.
#include <cstdint>

#include "fake_engine.hpp"
#include "reader.hpp"
#include "text_fixture.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace patchbay;
  static const auto model = patchbay::testing::byte_model("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
  patchbay::testing::FakeEngine engine;
  Metrics metrics;
  ServiceOptions options;
  options.allow_control = true;
  Service service(engine, *model, metrics, {}, options);
  {
    patchbay::testing::Reader reader(service);
    // Two messages: what the first left behind meets the second.
    const size_t half = size == 0 ? 0 : data[0] * (size - 1) / 255;
    const auto* text = reinterpret_cast<const char*>(data) + (size == 0 ? 0 : 1);
    const std::string first(text, half);
    const std::string second(text + half, size == 0 ? 0 : size - 1 - half);
    (void)service.submit(reader.id, first);
    engine.step();
    (void)service.submit(reader.id, second);
    for (int i = 0; i < 5000 && engine.step(); ++i) {
    }
    if (!engine.idle() || service.n_running() != 0) __builtin_trap();
  }
  return 0;
}
