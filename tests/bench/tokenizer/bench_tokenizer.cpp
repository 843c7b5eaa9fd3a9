// bench_tokenizer tokenizer.json text.txt: MB/s of encode and decode on one thread, after checking that decode gives
// the text.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "core/model/json/json.hpp"
#include "core/model/tokenizer/tokenizer.hpp"

namespace {

constexpr int kRuns = 7;

double seconds_of(const auto& what) {
  const auto start = std::chrono::steady_clock::now();
  what();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void report(std::string_view name, size_t n_bytes, size_t n_tokens, std::vector<double> seconds) {
  const double first = seconds.front();
  std::sort(seconds.begin(), seconds.end());
  const double mb = static_cast<double>(n_bytes) / 1e6;
  fmt::print("{:<8} {:8.1f} MB/s p50  {:8.1f} MB/s first (cold cache)  {} bytes  {} tokens\n", name,
             mb / seconds[seconds.size() / 2], mb / first, n_bytes, n_tokens);
}

int fail(std::string_view message) {
  fmt::print(stderr, "{}\n", message);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return fail("usage: bench_tokenizer tokenizer.json text.txt"), 2;
  moe::Result<std::unique_ptr<patchbay::Tokenizer>> made = moe::invalid("not loaded");
  const double load_s = seconds_of([&] { made = patchbay::Tokenizer::load(argv[1]); });
  if (!made.ok()) return fail(made.error().message);
  const patchbay::Tokenizer& tokenizer = **made;
  const auto text = patchbay::read_file(argv[2], size_t{64} << 20);
  if (!text.ok()) return fail(text.error().message);
  fmt::print("load     {:8.3f} s  {} ids\n", load_s, tokenizer.vocab_size());

  moe::Result<std::vector<int32_t>> ids = moe::invalid("not encoded");
  std::vector<double> encode_s;
  for (int i = 0; i < kRuns; ++i) encode_s.push_back(seconds_of([&] { ids = tokenizer.encode(*text, false); }));
  if (!ids.ok()) return fail(ids.error().message);
  std::string decoded;
  std::vector<double> decode_s;
  for (int i = 0; i < kRuns; ++i) decode_s.push_back(seconds_of([&] { decoded = tokenizer.decode(*ids, false); }));
  if (decoded != *text) fmt::print("note: decode(encode(text)) differs from the text, as a normalizer may make it\n");
  report("encode", text->size(), ids->size(), encode_s);
  report("decode", text->size(), ids->size(), decode_s);
  return 0;
}
