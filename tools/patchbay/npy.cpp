#include "tools/patchbay/npy.hpp"

#include <fmt/format.h>
#include <unistd.h>

namespace patchbay {

moe::Result<NpyWriter> NpyWriter::create(const std::filesystem::path& path, int64_t n_rows, int64_t n_columns) {
  NpyWriter writer;
  writer.path_ = path;
  writer.temporary_ = path.string() + fmt::format(".{}.part", getpid());
  writer.out_.open(writer.temporary_, std::ios::binary);
  if (!writer.out_) return moe::invalid(fmt::format("{}: expected a place to write, got none", path.string()));
  std::string header = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", n_rows, n_columns);
  constexpr size_t kPreamble = 10;
  header.append(63 - (kPreamble + header.size()) % 64, ' ');
  header += '\n';
  const auto length = static_cast<uint16_t>(header.size());
  const char preamble[kPreamble] = {'\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0, static_cast<char>(length & 0xff), static_cast<char>(length >> 8)};
  writer.out_.write(preamble, kPreamble);
  writer.out_.write(header.data(), static_cast<std::streamsize>(header.size()));
  return writer;
}

moe::Status NpyWriter::write(const float* values, size_t n) {
  out_.write(reinterpret_cast<const char*>(values), static_cast<std::streamsize>(n * sizeof(float)));
  if (!out_) return moe::exhausted(fmt::format("{}: could not be written: the disk may be full", path_.string()));
  return {};
}

moe::Status NpyWriter::finish() {
  out_.close();
  std::error_code ec;
  if (out_) std::filesystem::rename(temporary_, path_, ec);
  if (!out_ || ec) {
    std::filesystem::remove(temporary_, ec);
    return moe::exhausted(fmt::format("{}: could not be written", path_.string()));
  }
  return {};
}

}  // namespace patchbay
