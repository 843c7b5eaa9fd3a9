// The tokenizers of DeepSeek-V3, Qwen3 and gpt-oss, line by line against Hugging Face's library.
#include <gtest/gtest.h>

#include "support.hpp"

namespace patchbay::test {
namespace {

class RealTokenizer : public testing::TestWithParam<const char*> {
 protected:
  static std::string file(const std::string& suffix) { return std::string(GetParam()) + suffix; }
};

TEST_P(RealTokenizer, gives_the_ids_and_texts_of_the_reference_for_every_line) {
  const auto t = load_gzip(file(".json.gz"));
  ASSERT_NE(t, nullptr);
  const std::vector<Line> lines = read_lines(file(".lines.jsonl.gz"));
  ASSERT_EQ(lines.size(), 440U);
  for (const Line& line : lines) {
    EXPECT_EQ(encode(*t, line.text), line.ids) << line.text;
    EXPECT_EQ(t->decode(line.ids, false), line.decoded) << line.text;
    EXPECT_EQ(decode_in_steps(*t, line.ids, false), line.decoded) << line.text;
  }
}

TEST_P(RealTokenizer, encodes_the_same_from_a_warm_cache) {
  const auto t = load_gzip(file(".json.gz"));
  ASSERT_NE(t, nullptr);
  for (const Line& line : read_lines(file(".lines.jsonl.gz"))) {
    const std::vector<int32_t> first = encode(*t, line.text);
    EXPECT_EQ(encode(*t, line.text), first) << line.text;
  }
}

INSTANTIATE_TEST_SUITE_P(All, RealTokenizer, testing::Values("deepseek_v3", "qwen3", "gptoss"),
                         [](const auto& name) { return std::string(name.param); });

}  // namespace
}  // namespace patchbay::test
