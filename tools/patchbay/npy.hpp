// Writing f32 matrices as NumPy's .npy (format 1.0), row by row.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>

#include "moe/sdk/result.hpp"

namespace patchbay {

class NpyWriter {
 public:
  // Writes beside `path`; the file appears under its name when finish() succeeds.
  static moe::Result<NpyWriter> create(const std::filesystem::path& path, int64_t n_rows, int64_t n_columns);
  moe::Status write(const float* values, size_t n);
  moe::Status finish();

 private:
  std::filesystem::path path_, temporary_;
  std::ofstream out_;
};

}  // namespace patchbay
