// Any bytes as a safetensors file: accepted ones must keep every promise of TensorInfo.
#include <cstdint>
#include <cstdlib>

#include "core/model/checkpoint/safetensors.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  patchbay::TensorTable table;
  if (!patchbay::read_safetensors(file, nullptr, &table).ok()) return 0;
  size_t covered = 0;
  for (const patchbay::TensorInfo& tensor : table.tensors()) {
    const auto* dtype = patchbay::find_safetensors_encoding(tensor.encoding);
    const size_t bits = static_cast<size_t>(patchbay::element_count(tensor.shape)) * dtype->bits;
    if (bits != tensor.bytes * 8 || table.find(tensor.name) != &tensor) std::abort();
    if (tensor.data < file.data() || tensor.data + tensor.bytes > file.data() + file.size()) std::abort();
    covered += tensor.bytes;
  }
  if (covered > size) std::abort();
  return 0;
}
