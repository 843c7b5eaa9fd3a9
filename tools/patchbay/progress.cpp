#include "tools/patchbay/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace patchbay {

ProgressBar::ProgressBar(std::string what, bool on) : what_(std::move(what)), on_(on && isatty(2) == 1) {}

ProgressBar::~ProgressBar() {
  if (shown_) fmt::print(stderr, "\r\033[K");
}

void ProgressBar::show(uint64_t done, uint64_t total) {
  const auto now = std::chrono::steady_clock::now();
  if (!on_ || total == 0 || (now - last_ < std::chrono::milliseconds(100) && done < total)) return;
  last_ = now;
  const auto share = static_cast<int>(static_cast<double>(done) / static_cast<double>(total) * 100);
  fmt::print(stderr, "\r{} [{:#<{}}{:.<{}}] {:3} %", what_, "", share / 5, "", 20 - share / 5, share);
  std::fflush(stderr);
  shown_ = true;
}

}  // namespace patchbay
