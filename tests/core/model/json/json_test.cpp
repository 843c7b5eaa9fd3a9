#include "core/model/json/json.hpp"

#include <gtest/gtest.h>

namespace patchbay {
namespace {

std::string error_of(std::string_view text) {
  auto r = parse_json(text);
  return r.ok() ? "" : r.error().message;
}

TEST(Json, builds_what_the_text_says) {
  auto doc = parse_json(R"({"a": [1, -2, 3.5, true, null], "b": {"c": "x\u00e9"}})");
  ASSERT_TRUE(doc.ok()) << doc.error().message;
  EXPECT_EQ((*doc)["a"][2], 3.5);
  EXPECT_EQ((*doc)["b"]["c"], "xé");
}

TEST(Json, refuses_a_key_given_twice_and_says_where) {
  EXPECT_EQ(error_of("{\"a\": 1,\n \"a\": 2}"), "line 2, column 5: key \"a\": expected once in its object, got it twice");
}

TEST(Json, refuses_deep_nesting_in_linear_time) {
  EXPECT_NE(error_of(std::string(100000, '[')).find("nesting"), std::string::npos);
}

TEST(Json, says_where_the_text_breaks) {
  EXPECT_NE(error_of("{\"a\": 1,\n  b}").find("line 2"), std::string::npos) << error_of("{\"a\": 1,\n  b}");
  EXPECT_FALSE(error_of("").empty());
  EXPECT_FALSE(error_of("{} x").empty());
  EXPECT_FALSE(error_of("{\"a\": NaN}").empty());
}

TEST(Json, names_a_missing_file) {
  auto r = parse_json_file("/nowhere/config.json");
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.error().message, "/nowhere/config.json: expected a file, got nothing");
}

}  // namespace
}  // namespace patchbay
