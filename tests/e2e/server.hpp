// `patchbay serve` on the quickstart model, on a free port.
#pragma once

#include <functional>

#include "program.hpp"

namespace patchbay::e2e {

inline std::string quickstart_model() { return PATCHBAY_SOURCE_DIR "/configs/quickstart/model"; }

// Asks every few milliseconds, for as long as a busy machine with sanitizers may need.
inline bool eventually(const std::function<bool()>& holds) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!holds()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

// Over zeromq, and over http where asked.
class Server {
 public:
  explicit Server(const std::vector<std::string>& more = {}, const std::string& model = quickstart_model())
      : program(arguments(more, model)) {
    EXPECT_TRUE(eventually([&] { return program.out().find(" (zeromq)\n") != std::string::npos; })) << program.err();
    address = address_of("zeromq");
  }
  // Where a transport listens, once the server says so; empty: it does not.
  [[nodiscard]] std::string address_of(const std::string& transport) const {
    const std::string out = program.out();
    const size_t end = out.find(" (" + transport + ")\n");
    if (end == std::string::npos) return "";
    constexpr std::string_view kBefore = "listening on ";
    const size_t begin = out.rfind(kBefore, end) + kBefore.size();
    return out.substr(begin, end - begin);
  }
  RunningProgram program;
  std::string address;

 private:
  static std::vector<std::string> arguments(const std::vector<std::string>& more, const std::string& model) {
    std::vector<std::string> all = {"serve", "--model", model};
    all.insert(all.end(), more.begin(), more.end());
    all.insert(all.end(), {"--listen", "zeromq=tcp://127.0.0.1:*"});
    return all;
  }
};

inline const std::vector<std::string> kWithHttp = {"--listen", "http=127.0.0.1:0"};  // zeromq comes after it

}  // namespace patchbay::e2e
