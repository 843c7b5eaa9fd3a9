// Files that are wrong: each is a typed error that names the place, before anything big is allocated.
#include <gtest/gtest.h>

#include "support.hpp"

namespace patchbay::test {
namespace {

using nlohmann::json;

json good() {
  return json::parse(R"({
    "added_tokens": [{"id": 4, "content": "<s>", "special": true}],
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
                       "special_tokens": {"<s>": {"ids": [4]}}},
    "decoder": {"type": "Fuse"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "aba": 3}, "merges": ["a b", ["ab", "a"]]}})");
}

TEST(WrongFile, is_told_from_a_right_one) {
  const auto made = Tokenizer::from_json(good());
  ASSERT_TRUE(made.ok()) << made.error().message;
  EXPECT_EQ(encode(**made, "aba b", true), (std::vector<int32_t>{4, 3, 1}));
}

struct Wrong {
  const char* name;
  const char* at;     // JSON pointer: what is replaced or added
  const char* value;  // its new value
  moe_status code;
  const char* says;  // part of the message
};

// Without it gtest prints addresses, and the test's name changes from run to run.
void PrintTo(const Wrong& w, std::ostream* out) { *out << w.at << " = " << w.value; }

const Wrong kWrong[] = {
    {"huge_id", "/model/vocab/a", "2147483648", MOE_INVALID_ARGUMENT, "id of \"a\""},
    {"id_of_2_to_the_64", "/model/vocab/a", "18446744073709551615", MOE_INVALID_ARGUMENT, "model.vocab"},
    {"id_beyond_the_vocabulary", "/model/vocab/a", "1000000", MOE_INVALID_ARGUMENT, "got 1000000"},
    {"negative_id", "/model/vocab/a", "-1", MOE_INVALID_ARGUMENT, "got -1"},
    {"fractional_id", "/model/vocab/a", "1.5", MOE_INVALID_ARGUMENT, "got 1.5"},
    {"id_that_is_text", "/model/vocab/a", "\"0\"", MOE_INVALID_ARGUMENT, "got string"},
    {"two_tokens_of_one_id", "/model/vocab/a", "1", MOE_INVALID_ARGUMENT, "id 1: expected one token"},
    {"added_token_of_a_taken_id", "/added_tokens/0/id", "1", MOE_INVALID_ARGUMENT, "added_tokens[0]"},
    {"added_token_of_two_ids", "/added_tokens/0/content", "\"ab\"", MOE_INVALID_ARGUMENT, "expected one id"},
    {"added_token_without_content", "/added_tokens/0/content", "null", MOE_INVALID_ARGUMENT,
     "content: expected a string"},
    {"added_token_with_huge_id", "/added_tokens/0/id", "4294967296", MOE_INVALID_ARGUMENT, "added_tokens[0]"},
    {"added_tokens_that_are_no_list", "/added_tokens", "{}", MOE_INVALID_ARGUMENT, "added_tokens: expected an array"},
    {"merge_of_an_unknown_token", "/model/merges/0", "\"a c\"", MOE_INVALID_ARGUMENT,
     "model.merges[0]: expected tokens"},
    {"merge_that_makes_no_token", "/model/merges/0", "\"b b\"", MOE_INVALID_ARGUMENT, "got \"bb\""},
    {"merge_of_three", "/model/merges/0", "\"a b a\"", MOE_INVALID_ARGUMENT, "expected two tokens"},
    {"merge_of_one", "/model/merges/1", "[\"a\"]", MOE_INVALID_ARGUMENT, "model.merges[1]"},
    {"merge_that_is_a_number", "/model/merges/1", "7", MOE_INVALID_ARGUMENT, "got number"},
    {"merges_that_are_no_list", "/model/merges", "\"a b\"", MOE_INVALID_ARGUMENT, "merges: expected an array"},
    {"vocabulary_that_is_a_list", "/model/vocab", "[[\"a\", 0.5]]", MOE_INVALID_ARGUMENT, "vocab: expected an object"},
    {"no_model", "/model", "null", MOE_INVALID_ARGUMENT, "model: expected an object"},
    {"other_model", "/model/type", "\"Unigram\"", MOE_UNIMPLEMENTED, "got \"Unigram\""},
    {"dropout", "/model/dropout", "0.1", MOE_UNIMPLEMENTED, "dropout"},
    {"unknown_token_that_is_none", "/model/unk_token", "\"<unk>\"", MOE_INVALID_ARGUMENT, "model: unk_token"},
    {"flag_that_is_a_number", "/model/byte_fallback", "1", MOE_INVALID_ARGUMENT,
     "byte_fallback: expected true or false"},
    {"unknown_pre_tokenizer", "/pre_tokenizer/type", "\"Magic\"", MOE_UNIMPLEMENTED,
     "pre_tokenizer: type: expected one of Split"},
    {"pre_tokenizer_without_type", "/pre_tokenizer", "{}", MOE_INVALID_ARGUMENT, "pre_tokenizer: type"},
    {"pre_tokenizer_that_is_text", "/pre_tokenizer", "\"Whitespace\"", MOE_INVALID_ARGUMENT,
     "pre_tokenizer: expected an object"},
    {"broken_pattern", "/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"})",
     MOE_INVALID_ARGUMENT, "expected a regular expression"},
    {"pattern_of_oniguruma_alone", "/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "[a[b]]"}})",
     MOE_UNIMPLEMENTED, "class"},
    {"unknown_behavior", "/pre_tokenizer", R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "Odd"})",
     MOE_INVALID_ARGUMENT, "behavior"},
    {"empty_pattern", "/pre_tokenizer", R"({"type": "Split", "pattern": {"String": ""}})", MOE_INVALID_ARGUMENT,
     "pattern"},
    {"replacement_of_two_characters", "/pre_tokenizer", R"({"type": "Metaspace", "replacement": "__"})",
     MOE_INVALID_ARGUMENT, "one character"},
    {"unknown_normalizer", "/normalizer", R"({"type": "Precompiled"})", MOE_UNIMPLEMENTED, "got \"Precompiled\""},
    {"unknown_decoder", "/decoder", R"({"type": "WordPiece"})", MOE_UNIMPLEMENTED, "got \"WordPiece\""},
    {"decoder_that_makes_tokens_huge", "/decoder", R"({"type": "Replace", "pattern": {"String": "a"}, "content":
      "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"})",
     MOE_INVALID_ARGUMENT, "grow"},
    {"negative_strip", "/decoder", R"({"type": "Strip", "content": " ", "start": -1})", MOE_INVALID_ARGUMENT, "start"},
    {"unknown_post_processor", "/post_processor", R"({"type": "Odd"})", MOE_UNIMPLEMENTED, "post_processor"},
    {"template_of_an_unknown_id", "/post_processor/special_tokens/<s>/ids/0", "99", MOE_INVALID_ARGUMENT, "got 99"},
    {"template_without_the_text", "/post_processor/single", "[]", MOE_INVALID_ARGUMENT, "Sequence A once"},
    {"template_of_an_unknown_name", "/post_processor/single/0/SpecialToken/id", "\"</s>\"", MOE_INVALID_ARGUMENT,
     "</s>"},
};

class WrongFile : public testing::TestWithParam<Wrong> {};

TEST_P(WrongFile, is_a_typed_error) {
  const Wrong& w = GetParam();
  json document = good();
  document[json::json_pointer(w.at)] = json::parse(w.value);
  const auto made = Tokenizer::from_json(document);
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, w.code) << made.error().message;
  EXPECT_NE(made.error().message.find(w.says), std::string::npos) << made.error().message;
}

INSTANTIATE_TEST_SUITE_P(All, WrongFile, testing::ValuesIn(kWrong),
                         [](const auto& w) { return std::string(w.param.name); });

TEST(WrongFile, nested_too_deep_is_an_error) {
  json part = {{"type", "NFC"}};
  for (int i = 0; i < 20; ++i) part = {{"type", "Sequence"}, {"normalizers", json::array({part})}};
  json document = good();
  document["normalizer"] = part;
  const auto made = Tokenizer::from_json(document);
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, MOE_INVALID_ARGUMENT);
}

TEST(WrongFile, that_is_missing_is_not_found) {
  const auto made = Tokenizer::load(data_dir() / "no-such.json");
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, MOE_NOT_FOUND);
}

TEST(WrongFile, with_a_merge_that_loops_ends) {
  // "a" + "" makes "a" again: an empty token stands nowhere in a text, so the merge never applies.
  json document = good();
  document["model"]["vocab"][""] = 5;
  document["model"]["merges"] =
      json::array({json::array({"a", ""}), json::array({"", "a"}), json::array({"", ""}), "a b"});
  const auto made = Tokenizer::from_json(document);
  ASSERT_TRUE(made.ok()) << made.error().message;
  EXPECT_EQ(encode(**made, "abaa"), (std::vector<int32_t>{2, 0, 0}));
}

TEST(WrongFile, whose_pattern_backtracks_without_end_fails_the_text_alone) {
  json document = good();
  document["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "(a|aa)+$"}}}, {"behavior", "Isolated"}};
  const auto made = Tokenizer::from_json(document);
  ASSERT_TRUE(made.ok()) << made.error().message;
  const auto ids = (*made)->encode(std::string(5000, 'a') + "b", false);
  ASSERT_FALSE(ids.ok());
  EXPECT_EQ(ids.error().code, MOE_RESOURCE_EXHAUSTED);
  EXPECT_TRUE((*made)->encode("aba", false).ok());
}

}  // namespace
}  // namespace patchbay::test
