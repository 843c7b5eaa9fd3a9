// Any bytes as a GGUF file: accepted ones must keep every promise of TensorInfo, and every value can be read.
#include <cstdint>
#include <cstdlib>

#include "core/model/checkpoint/gguf.hpp"
#include "core/model/checkpoint/gguf_types.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  patchbay::TensorTable table;
  const auto metadata = patchbay::read_gguf(file, &table);
  if (!metadata.ok()) return 0;
  size_t covered = 0;
  for (const patchbay::TensorInfo& tensor : table.tensors()) {
    const auto* type = patchbay::find_gguf_encoding(tensor.encoding);
    const auto n = static_cast<size_t>(patchbay::element_count(tensor.shape));
    if (n / type->block_elements * type->block_bytes != tensor.bytes || table.find(tensor.name) != &tensor)
      std::abort();
    if (tensor.data < file.data() || tensor.data + tensor.bytes > file.data() + file.size()) std::abort();
    covered += tensor.bytes;
  }
  size_t n_bytes = 0;
  for (const auto& [key, value] : *metadata) {
    n_bytes += key.size() + value.string().value_or("").size() + static_cast<size_t>(value.number().has_value());
    if (value.array() == nullptr) continue;
    value.array()->for_each([&](const patchbay::GgufValue& v) { n_bytes += v.string().value_or("").size(); });
    if (const auto strings = value.array()->strings()) n_bytes += strings->size();
  }
  if (covered > size || n_bytes > size) std::abort();
  return 0;
}
