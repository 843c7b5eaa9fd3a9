// Tokenizers from a vocabulary alone, as GGUF carries it.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>

#include "support.hpp"

namespace patchbay::test {
namespace {

using nlohmann::json;

// What a GGUF file of this tokenizer.json would hold.
TokenizerData as_gguf(const json& document, const std::string& pre) {
  TokenizerData d;
  d.pre_tokenizer = pre;
  size_t n = 0;
  const auto each = [&document](const std::function<void(const std::string&, size_t, int)>& use) {
    for (const auto& [text, id] : document.at("model").at("vocab").items()) use(text, id.get<size_t>(), 1);
    for (const json& t : document.at("added_tokens"))
      use(t.at("content"), t.at("id").get<size_t>(), t.at("special") == true ? 3 : 4);
  };
  each([&n](const std::string&, size_t id, int) { n = std::max(n, id + 1); });
  d.tokens.resize(n);
  d.types.assign(n, 5);
  each([&d](const std::string& text, size_t id, int type) {
    d.tokens[id] = text;
    d.types[id] = type;
  });
  for (size_t i = 0; i < n; ++i) {
    if (d.tokens[i].empty()) d.tokens[i] = "[PAD" + std::to_string(i) + "]";  // how converters fill holes
  }
  for (const json& m : document.at("model").at("merges")) {
    d.merges.push_back(m.is_string() ? m.get<std::string>()
                                     : m.at(0).get<std::string>() + " " + m.at(1).get<std::string>());
  }
  return d;
}

using Named = std::pair<const char*, const char*>;
class GgufOfRealTokenizer : public testing::TestWithParam<Named> {};

TEST_P(GgufOfRealTokenizer, gives_the_same_ids_as_its_tokenizer_json) {
  const auto [name, pre] = GetParam();
  const auto document = parse_json(read_gzip(data_dir() / (std::string(name) + ".json.gz")));
  ASSERT_TRUE(document.ok());
  const auto made = Tokenizer::from_vocabulary(as_gguf(*document, pre));
  ASSERT_TRUE(made.ok()) << made.error().message;
  const std::vector<Line> lines = read_lines(std::string(name) + ".lines.jsonl.gz");
  ASSERT_EQ(lines.size(), 440U);
  for (const Line& line : lines) {
    EXPECT_EQ(encode(**made, line.text), line.ids) << line.text;
    EXPECT_EQ((*made)->decode(line.ids, false), line.decoded) << line.text;
  }
}

INSTANTIATE_TEST_SUITE_P(All, GgufOfRealTokenizer,
                         testing::Values(Named("deepseek_v3", "deepseek-v3"), Named("qwen3", "qwen2"),
                                         Named("gptoss", "gpt-4o")),
                         [](const auto& name) { return std::string(name.param.first); });

class Family : public testing::TestWithParam<const char*> {};

TEST_P(Family, splits_text_as_its_models_own_files_do) {
  const json file = json::parse(read_gzip(data_dir() / "families.json.gz")).at(GetParam());
  TokenizerData d;
  d.pre_tokenizer = GetParam();
  d.tokens = file.at("tokens").get<std::vector<std::string>>();
  d.merges = file.at("merges").get<std::vector<std::string>>();
  const auto made = Tokenizer::from_vocabulary(d);
  ASSERT_TRUE(made.ok()) << made.error().message;
  ASSERT_GT(file.at("lines").size(), 400U);
  for (const json& line : file.at("lines")) {
    EXPECT_EQ(encode(**made, line.at("text").get<std::string>()), line.at("ids").get<std::vector<int32_t>>())
        << line.at("text");
  }
}

INSTANTIATE_TEST_SUITE_P(All, Family, testing::Values("deepseek-llm", "deepseek-coder", "kimi-k2"),
                         [](const auto& name) {
                           std::string text = name.param;
                           std::replace(text.begin(), text.end(), '-', '_');
                           return text;
                         });

json sentencepiece_file() { return json::parse(read_gzip(data_dir() / "sentencepiece.json.gz")); }

TokenizerData sentencepiece_data(const json& file) {
  TokenizerData d;
  d.kind = TokenizerData::Kind::kSentencePiece;
  d.tokens = file.at("tokens").get<std::vector<std::string>>();
  d.scores = file.at("scores").get<std::vector<float>>();
  d.types = file.at("types").get<std::vector<int32_t>>();
  d.bos = file.at("bos").get<int32_t>();
  d.eos = file.at("eos").get<int32_t>();
  d.unknown = file.at("unknown").get<int32_t>();
  return d;
}

TEST(SentencePiece, gives_the_ids_of_sentencepiece) {
  const json file = sentencepiece_file();
  const auto made = Tokenizer::from_vocabulary(sentencepiece_data(file));
  ASSERT_TRUE(made.ok()) << made.error().message;
  ASSERT_GT(file.at("lines").size(), 150U);
  for (const json& line : file.at("lines")) {
    const std::vector<int32_t> ids = line.at("ids");
    EXPECT_EQ(encode(**made, line.at("text").get<std::string>()), ids) << line.at("text");
    EXPECT_EQ((*made)->decode(ids, false), line.at("decoded").get<std::string>()) << line.at("text");
    EXPECT_EQ(decode_in_steps(**made, ids, false), line.at("decoded").get<std::string>()) << line.at("text");
  }
}

TEST(SentencePiece, adds_bos_and_eos_when_told) {
  TokenizerData d = sentencepiece_data(sentencepiece_file());
  d.add_bos = d.add_eos = true;
  const auto made = Tokenizer::from_vocabulary(d);
  ASSERT_TRUE(made.ok()) << made.error().message;
  const std::vector<int32_t> plain = encode(**made, "the router");
  std::vector<int32_t> want = plain;
  want.insert(want.begin(), *d.bos);
  want.push_back(*d.eos);
  EXPECT_EQ(encode(**made, "the router", true), want);
  EXPECT_EQ((*made)->decode(want, true), "the router");
  EXPECT_TRUE((*made)->is_special(*d.bos));
}

moe_status code_of(const TokenizerData& d) {
  const auto made = Tokenizer::from_vocabulary(d);
  return made.ok() ? MOE_OK : made.error().code;
}

TEST(Vocabulary, that_is_wrong_is_a_typed_error) {
  const TokenizerData good = sentencepiece_data(sentencepiece_file());
  ASSERT_EQ(code_of(good), MOE_OK);
  const auto with = [&good](const auto& change) {
    TokenizerData d = good;
    change(d);
    return code_of(d);
  };
  EXPECT_EQ(with([](auto& d) { d.tokens.clear(); }), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(with([](auto& d) { d.scores.pop_back(); }), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(with([](auto& d) { d.scores[5] = std::numeric_limits<float>::quiet_NaN(); }), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(with([](auto& d) { d.types.pop_back(); }), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(with([](auto& d) { d.bos = -1; }), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(with([](auto& d) { d.eos = 1 << 30; }), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(with([](auto& d) { d.bos.reset(), d.add_bos = true; }), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(with([](auto& d) { d.tokens[300] = d.tokens[301]; }), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(with([](auto& d) { d.tokens[300] = "\xFF"; }), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(with([](auto& d) { d.tokens[300] = std::string(100'000, 'a'); }), MOE_INVALID_ARGUMENT);
  EXPECT_EQ(with([](auto& d) { d.kind = TokenizerData::Kind::kByteLevelBpe, d.pre_tokenizer = "who-knows"; }),
            MOE_UNIMPLEMENTED);
  EXPECT_EQ(with([](auto& d) {
              d.kind = TokenizerData::Kind::kByteLevelBpe, d.pre_tokenizer = "default", d.merges = {"no-such token"};
            }),
            MOE_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace patchbay::test
