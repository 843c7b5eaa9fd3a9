// A progress bar on standard error.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace patchbay {

// "loading [#####...............]  25 %", at most ten times a second; nothing where standard error is no terminal. Goes
// when it is destroyed.
class ProgressBar {
 public:
  ProgressBar(std::string what, bool on);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  void show(uint64_t done, uint64_t total);

 private:
  std::string what_;
  bool on_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace patchbay
