// `patchbay serve` on the quickstart model, on a free port.
#pragma once

#include <sys/resource.h>

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
  explicit Server(const std::vector<std::string>& more = {}, const std::string& model = quickstart_model(),
                  const std::string& err = "")
      : program(arguments(more, model), err) {
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

// A process whose address space or table of open files has room for `more` from now on.
inline void leave_room(const Server& server, int resource, rlim_t more) {
  const std::string proc = "/proc/" + std::to_string(server.program.pid());
  rlim_t used = 0;
  if (resource == RLIMIT_NOFILE) {
    const std::filesystem::directory_iterator open_files(proc + "/fd");
    used = static_cast<rlim_t>(std::distance(begin(open_files), end(open_files)));
  } else {
    ASSERT_EQ(resource, RLIMIT_AS);
    std::ifstream(proc + "/statm") >> used;  // in pages
    used *= static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
  }
  const rlimit limit{used + more, used + more};
  ASSERT_EQ(prlimit(server.program.pid(), static_cast<__rlimit_resource>(resource), &limit, nullptr), 0);
}

inline const std::vector<std::string> kWithHttp = {"--listen", "http=127.0.0.1:0"};  // zeromq comes after it

}  // namespace patchbay::e2e
