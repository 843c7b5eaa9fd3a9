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

class Server {
 public:
  explicit Server(const std::vector<std::string>& more = {}) : program(arguments(more)) {
    constexpr std::string_view kEnd = " (zeromq)\n";
    EXPECT_TRUE(eventually([&] { return program.out().find(kEnd) != std::string::npos; })) << program.err();
    const std::string out = program.out();
    const size_t from = out.find("tcp://");
    if (from != std::string::npos) address = out.substr(from, out.find(kEnd) - from);
  }
  RunningProgram program;
  std::string address;

 private:
  static std::vector<std::string> arguments(const std::vector<std::string>& more) {
    std::vector<std::string> all = {"serve", "--model", quickstart_model(), "--bind", "tcp://127.0.0.1:*"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
};

}  // namespace patchbay::e2e
