// Every supported part in a small tokenizer, against what Hugging Face's library gives:
// tests/data/tokenizers/make_parts.py.
#include <gtest/gtest.h>

#include "support.hpp"

namespace patchbay::test {
namespace {

using nlohmann::json;

const json& parts() {
  static const json document = json::parse(read_gzip(data_dir() / "parts.json.gz"));
  return document;
}

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const json& c : parts().at("cases")) names.push_back(c.at("name"));
  return names;
}

class Parts : public testing::TestWithParam<std::string> {};

void check_decoded(const Tokenizer& t, const std::vector<int32_t>& ids, const json& want, bool skip_special) {
  // null: the reference itself fails here (its Strip panics on a token that is shorter than what it strips).
  if (!want.is_null()) {
    EXPECT_EQ(t.decode(ids, skip_special), want.get<std::string>());
  }
  EXPECT_EQ(decode_in_steps(t, ids, skip_special), t.decode(ids, skip_special));
}

TEST_P(Parts, gives_the_ids_and_texts_of_the_reference) {
  const json& cases = parts().at("cases");
  const auto found = std::find_if(cases.begin(), cases.end(), [](const json& c) { return c.at("name") == GetParam(); });
  json document = *found;
  document["model"] = parts().at("models").at(found->at("model").get<std::string>());
  const auto made = Tokenizer::from_json(document);
  ASSERT_TRUE(made.ok()) << made.error().message;
  const Tokenizer& t = **made;
  size_t n_lines = 0;
  for (const json& line : found->at("lines")) {
    const std::string text = line.at("text");
    SCOPED_TRACE("text \"" + text + "\"");
    const std::vector<int32_t> ids = line.at("ids");
    EXPECT_EQ(encode(t, text, line.at("special")), ids);
    check_decoded(t, ids, line.at("decoded"), false);
    check_decoded(t, ids, line.at("skipped"), true);
    ++n_lines;
  }
  EXPECT_GT(n_lines, 40U);
}

INSTANTIATE_TEST_SUITE_P(All, Parts, testing::ValuesIn(case_names()), [](const auto& name) { return name.param; });

}  // namespace
}  // namespace patchbay::test
