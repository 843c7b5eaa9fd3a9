// What a Tokenizer promises beyond ids: options, streams, limits, threads.
#include <gtest/gtest.h>

#include <thread>

#include "core/model/tokenizer/regex.hpp"
#include "support.hpp"

namespace patchbay::test {
namespace {

std::unique_ptr<Tokenizer> quickstart() {
  auto made = Tokenizer::load(source_dir() / "configs/quickstart/model/tokenizer.json");
  EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.error().message);
  return made.ok() ? std::move(*made) : nullptr;
}

const std::string kHard =
    "Tom 有 12 个苹果🍎 and\xC3\xA9 \n\t3+4=7 <think>ok</think> \xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x92\xBB";

TEST(Tokenizer, of_the_quickstart_gives_back_its_text) {
  const auto t = quickstart();
  ASSERT_NE(t, nullptr);
  const std::vector<int32_t> ids = encode(*t, kHard);
  EXPECT_GT(ids.size(), 10U);
  EXPECT_EQ(t->decode(ids, false), kHard);
  EXPECT_EQ(decode_in_steps(*t, ids, false), kHard);
}

TEST(Tokenizer, names_its_tokens) {
  const auto t = quickstart();
  ASSERT_NE(t, nullptr);
  const auto think = t->id_of("<think>");
  ASSERT_TRUE(think.ok());
  EXPECT_EQ(*think, 4);
  EXPECT_TRUE(t->is_special(4));
  EXPECT_EQ(t->token_text(4), "<think>");
  EXPECT_EQ(t->vocab_size(), 710U);
  const auto space = t->id_of("Ġ");
  ASSERT_TRUE(space.ok());
  EXPECT_EQ(t->token_bytes(*space), " ");
  EXPECT_FALSE(t->is_special(*space));
  EXPECT_EQ(t->id_of("no such token").error().code, MOE_NOT_FOUND);
  for (const int32_t id : {-1, 710, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(t->token_text(id), "");
    EXPECT_EQ(t->token_bytes(id), "");
    EXPECT_FALSE(t->is_special(id));
  }
}

TEST(Tokenizer, leaves_out_ids_that_name_no_token) {
  const auto t = quickstart();
  ASSERT_NE(t, nullptr);
  const int32_t a = *t->id_of("a");
  EXPECT_EQ(t->decode(std::vector<int32_t>{a, -1, a, 710, INT32_MAX, INT32_MIN, a}, false), "aaa");
}

TEST(Tokenizer, leaves_out_special_tokens_only_when_told) {
  const auto t = quickstart();
  ASSERT_NE(t, nullptr);
  const std::vector<int32_t> ids = encode(*t, "<think>a</think>");
  EXPECT_EQ(ids.size(), 3U);
  EXPECT_EQ(t->decode(ids, false), "<think>a</think>");
  EXPECT_EQ(t->decode(ids, true), "a");
}

TEST(Tokenizer, reads_special_tokens_as_text_when_told) {
  const auto t = quickstart();
  ASSERT_NE(t, nullptr);
  const auto ids = t->encode("<think>a", EncodeOptions{.add_special = false, .parse_special = false});
  ASSERT_TRUE(ids.ok());
  for (const int32_t id : *ids) EXPECT_FALSE(t->is_special(id));
  EXPECT_EQ(t->decode(*ids, true), "<think>a");
}

TEST(Tokenizer, reads_broken_utf8_as_replacement_characters_like_python) {
  const auto t = quickstart();
  ASSERT_NE(t, nullptr);
  const std::pair<const char*, const char*> cases[] = {
      {"a\xFFz", "a\xEF\xBF\xBDz"},
      {"\xE4\xBD", "\xEF\xBF\xBD"},                              // cut off: one
      {"\xE4\xBD\xE4\xBD\xA0", "\xEF\xBF\xBD\xE4\xBD\xA0"},      // one, then the whole character
      {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},  // a surrogate: three
      {"\xC0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD"},                  // overlong: two
      {"\xF4\x90\x80\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
  };
  for (const auto& [text, want] : cases) EXPECT_EQ(t->decode(encode(*t, text), false), want);
}

TEST(Tokenizer, takes_giant_pieces_in_about_linear_time) {
  const auto t = load_gzip("qwen3.json.gz");
  ASSERT_NE(t, nullptr);
  // Quadratic code would take hours: the time limit of the test is the check. bench_tokenizer gives the speed.
  for (const char* unit : {"a", " ", "\n", "9", "\xE4\xBD\xA0", "<|im_start", "\xCC\x81", "aB"}) {
    std::string text;
    while (text.size() < 1'000'000) text += unit;
    EXPECT_EQ(t->decode(encode(*t, text), false).size(), text.size()) << unit;
  }
}

TEST(Tokenizer, merges_long_pieces_like_short_ones) {
  // "z" merges with nothing, so a piece with it in between is its parts: one by scan (short), the whole by heap (long).
  const auto t =
      from_text(R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "z": 2, "aa": 3, "ab": 4, "aab": 5, "bb": 6,
      "abb": 7, "aaaa": 8, "ba": 9, "baab": 10}, "merges": ["a a", "a b", "b b", "aa b", "aa aa", "ab b", "a bb", "b a", "ba ab"]}})");
  ASSERT_NE(t, nullptr);
  uint32_t state = 7;
  for (int round = 0; round < 200; ++round) {
    std::string text;
    std::vector<int32_t> want;
    for (int i = 0; i < 10; ++i) {
      std::string part;
      for (int k = 0; k < 30; ++k) {
        state = state * 1664525 + 1013904223;
        part += (state >> 16) % 3 == 0 ? 'b' : 'a';
      }
      part += 'z';
      text += part;
      const std::vector<int32_t> ids = encode(*t, part);
      want.insert(want.end(), ids.begin(), ids.end());
    }
    ASSERT_EQ(encode(*t, text), want) << text;
  }
}

TEST(Tokenizer, refuses_a_text_over_the_limit) {
  const auto t = quickstart();
  ASSERT_NE(t, nullptr);
  const auto ids = t->encode(std::string((size_t{64} << 20) + 1, 'a'), false);
  ASSERT_FALSE(ids.ok());
  EXPECT_EQ(ids.error().code, MOE_INVALID_ARGUMENT);
}

TEST(Tokenizer, gives_the_same_ids_to_many_threads) {
  const auto t = load_gzip("qwen3.json.gz");
  ASSERT_NE(t, nullptr);
  const std::vector<Line> lines = read_lines("qwen3.lines.jsonl.gz");
  std::vector<size_t> n_wrong(4, 0);
  std::vector<std::thread> threads;
  for (size_t k = 0; k < n_wrong.size(); ++k) {
    threads.emplace_back([&, k] {
      for (size_t i = 0; i < lines.size(); ++i) {
        const Line& line = lines[(i + k * 110) % lines.size()];
        const auto ids = t->encode(line.text, false);
        n_wrong[k] += ids.ok() && *ids == line.ids && t->decode(*ids, false) == line.decoded ? 0 : 1;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const size_t n : n_wrong) EXPECT_EQ(n, 0U);
}

TEST(StreamDecoder, holds_half_a_character_back_until_it_is_whole) {
  const auto t = quickstart();
  ASSERT_NE(t, nullptr);
  std::vector<int32_t> ids;
  for (const char* byte : {"ð", "Ł", "į", "İ"}) {  // F0 9F 8D 8E, byte by byte in the byte-level alphabet
    const auto id = t->id_of(byte);
    ASSERT_TRUE(id.ok()) << byte;
    ids.push_back(*id);
  }
  StreamDecoder stream(*t, false);
  EXPECT_EQ(stream.push(ids[0]), "");
  EXPECT_EQ(stream.push(ids[1]), "");
  EXPECT_EQ(stream.push(ids[2]), "");
  EXPECT_EQ(stream.push(ids[3]), "🍎");
  EXPECT_EQ(stream.flush(), "");
  EXPECT_EQ(stream.push(ids[0]), "");
  EXPECT_EQ(stream.flush(), "\xEF\xBF\xBD");
  EXPECT_EQ(stream.push(*t->id_of("a")), "a") << "after flush the decoder begins anew";
}

TEST(StreamDecoder, agrees_with_decode_on_random_ids) {
  const auto t = load_gzip("deepseek_v3.json.gz");
  ASSERT_NE(t, nullptr);
  uint32_t state = 1;
  for (int round = 0; round < 200; ++round) {
    std::vector<int32_t> ids;
    for (int i = 0; i < 40; ++i) {
      state = state * 1664525 + 1013904223;
      ids.push_back(static_cast<int32_t>((state >> 8) % (i % 2 == 0 ? 260 : t->vocab_size() + 5)));
    }
    EXPECT_EQ(decode_in_steps(*t, ids, round % 2 == 0), t->decode(ids, round % 2 == 0));
  }
}

TEST(Regex, is_translated_from_oniguruma) {
  const auto translated = [](std::string_view pattern) {
    const auto r = pcre2_from_oniguruma(pattern);
    return r.ok() ? *r : "error: " + r.error().message;
  };
  EXPECT_EQ(translated(R"([^\s\p{L}]+)"), R"([^\p{Z}\t-\r\x{85}\p{L}]+)");
  EXPECT_EQ(translated(R"(\p{Letter}\p{Han}\P{^Lu}\p{N}{1,3}+)"), R"(\p{L}\p{sc:Han}\P{^Lu}\p{N}+)");
  EXPECT_EQ(translated(R"((?mi:a.)x{,3}\u00e9)"), R"((?si:a.)x{0,3}\x{00e9})");
  EXPECT_TRUE(translated("[a[b]]").starts_with("error"));
  EXPECT_EQ(translated(R"(x[\p{Lu}\s&&[^\p{Han}]]*)"), R"(x(?:(?![\p{sc:Han}])[\p{Lu}\p{Z}\t-\r\x{85}])*)");
  EXPECT_EQ(translated("[a-z&&[aeiou]]+[a-z&&x]"), "(?:(?=[aeiou])[a-z])+(?:(?=[x])[a-z])");
  for (const char* wrong : {"[^a&&b]", "[a&&b&&c]", "[a&&[b]c]", "[a&&[b", "[a&&[b[c]]]", "[a&&"}) {
    EXPECT_TRUE(translated(wrong).starts_with("error")) << wrong;
  }
  EXPECT_TRUE(translated("x{2,3}+").starts_with("error"));
}

TEST(Regex, that_backtracks_without_end_is_an_error) {
  const auto regex = Regex::compile("(a|aa)+$");
  ASSERT_TRUE(regex.ok());
  std::vector<Match> out;
  const moe::Status done = regex->find_all(std::string(5000, 'a') + "b", out);
  ASSERT_FALSE(done.ok());
  EXPECT_EQ(done.error().code, MOE_RESOURCE_EXHAUSTED);
}

}  // namespace
}  // namespace patchbay::test
