// Any bytes as a tokenizer.json; what loads encodes and decodes a little text, whole and in a stream, to the same end.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "core/model/json/json.hpp"
#include "core/model/tokenizer/tokenizer.hpp"

namespace {

constexpr std::string_view kTexts[] = {"", " a  b\n", "<s>ab aba</s> 12 ,.x",
                                       "\xE4\xBD\xA0\xFF\xF0\x9F\x8D\x8E\xCC\x81",
                                       "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"};

void check(const patchbay::Tokenizer& t, std::string_view text) {
  const auto ids = t.encode(text, true);
  if (!ids.ok()) return;
  for (const bool skip : {false, true}) {
    patchbay::StreamDecoder stream(t, skip);
    std::string streamed;
    for (const int32_t id : *ids) streamed += stream.push(id);
    streamed += stream.flush();
    if (streamed != t.decode(*ids, skip)) std::abort();
  }
  for (const int32_t id : *ids) {
    if (id < 0 || static_cast<size_t>(id) >= t.vocab_size()) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto document =
      patchbay::parse_json({reinterpret_cast<const char*>(data), size}, {.max_depth = 64, .max_bytes = 1 << 16});
  if (!document.ok()) return 0;
  const auto made = patchbay::Tokenizer::from_json(*document);
  if (!made.ok()) return 0;
  for (const std::string_view text : kTexts) check(**made, text);
  const std::vector<int32_t> odd = {-1, 0, 1, 2, 3, 1 << 30, 255, 4, 0, 0};
  (void)(*made)->decode(odd, false);
  return 0;
}
