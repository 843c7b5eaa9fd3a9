// Any bytes as a model's .gguf file, against every architecture file: its spec, tokenizer and template, or one error
// each.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/model/files/model_files.hpp"

namespace {
template <typename T>
void value_or_message(const moe::Result<T>& result) {
  if (!result.ok() && result.error().message.empty()) std::abort();
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto library = patchbay::ArchitectureLibrary::open({PATCHBAY_SOURCE_DIR "/configs/architectures"});
  if (!library.ok()) std::abort();
  const int fd = memfd_create("model.gguf", 0);
  if (fd < 0 || write(fd, data, size) != static_cast<ssize_t>(size)) std::abort();
  const auto files = patchbay::ModelFiles::open("/proc/self/fd/" + std::to_string(fd));
  close(fd);
  value_or_message(files);
  if (!files.ok()) return 0;
  const auto description = (*files)->describe();
  value_or_message(description);
  if (description.ok()) value_or_message(library->describe(*description));
  value_or_message((*files)->tokenizer());
  value_or_message((*files)->chat_format());
  value_or_message((*files)->stop_ids());
  return 0;
}
