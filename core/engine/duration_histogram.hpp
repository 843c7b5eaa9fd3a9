// DurationHistogram: how often something took how long.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace patchbay {

// Buckets whose upper bounds double from 0.1 ms to 52 s, and one for what is beyond. One thread at a time.
class DurationHistogram {
 public:
  static constexpr size_t kBuckets = 20;

  // Upper bound of a bucket in seconds; the last has none.
  static constexpr double bound(size_t bucket) { return 1e-4 * static_cast<double>(uint64_t{1} << bucket); }

  void add(double seconds) {
    size_t bucket = 0;
    while (bucket < kBuckets && !(seconds <= bound(bucket))) ++bucket;
    ++counts_[bucket];
    sum_ += seconds;
  }
  // Of one bucket alone; kBuckets: what is beyond the last bound.
  [[nodiscard]] uint64_t count(size_t bucket) const { return counts_[bucket]; }
  [[nodiscard]] double sum() const { return sum_; }

 private:
  std::array<uint64_t, kBuckets + 1> counts_{};
  double sum_ = 0;
};

}  // namespace patchbay
