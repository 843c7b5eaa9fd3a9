// A format's table in an architecture file.
#include "core/model/architecture/format_table.hpp"

#include <gtest/gtest.h>

namespace patchbay {
namespace {

using nlohmann::json;

constexpr const char* kDocument = R"(
[rope]
theta = "rope_theta"
interleaved = false
[tensors]
embed = "model.embed"
head = "lm_head"
[box]
match = "thing"
when = "(n_experts ?? 0) > 0"
[box.config]
hidden_size = "width"
absent = "nothing ?? null"
listed = "[1, 'a', width]"
plain = 7
[box.config.rope_scaling]
factor = "rope.factor"
[box.rope]
interleaved = true
[box.tensors]
embed = "e"
)";

TomlNode document() {
  auto parsed = parse_toml(kDocument, "x.toml");
  EXPECT_TRUE(parsed.ok()) << parsed.error().message;
  return *parsed;
}

TEST(FormatTable, its_config_is_evaluated_over_the_checkpoints_values_and_nulls_are_left_out) {
  const auto config = config_for_format(*document().find("box"), "box", {{"width", 8}, {"rope", {{"factor", 2.5}}}});
  ASSERT_TRUE(config.ok()) << config.error().message;
  const json want = {{"hidden_size", 8}, {"listed", {1, "a", 8}}, {"plain", 7}, {"rope_scaling", {{"factor", 2.5}}}};
  EXPECT_EQ(*config, want);
}

TEST(FormatTable, tensors_are_replaced_and_other_tables_overlaid) {
  const auto read = document_for_format(document(), "box");
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(read->find("box"), nullptr);
  EXPECT_EQ(read->find("tensors")->table()->size(), 1U);
  EXPECT_EQ(std::get<std::string>(read->find("tensors")->find("embed")->value), "e");
  EXPECT_EQ(std::get<bool>(read->find("rope")->find("interleaved")->value), true);
  EXPECT_EQ(std::get<std::string>(read->find("rope")->find("theta")->value), "rope_theta");
}

TEST(FormatTable, when_decides_whether_the_file_is_for_a_checkpoint) {
  const TomlNode table = *document().find("box");
  EXPECT_TRUE(*format_applies(table, {{"n_experts", 2}}));
  EXPECT_FALSE(*format_applies(table, {{"n_experts", 0}}));
  EXPECT_FALSE(*format_applies(table, json::object()));
  EXPECT_FALSE(format_applies(table, {{"n_experts", "many"}}).ok());
}

TEST(FormatTable, errors_name_the_place_in_the_file) {
  const auto missing = config_for_format(*document().find("box"), "box", json::object());
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(missing.error().message.find("x.toml: line "), std::string::npos) << missing.error().message;
  EXPECT_NE(missing.error().message.find("box.config."), std::string::npos) << missing.error().message;
  const auto wrong = parse_toml("[box]\nmatch = \"a\"\nconfgi = 1\n", "y.toml");
  ASSERT_TRUE(wrong.ok());
  const auto unknown = config_for_format(*wrong->find("box"), "box", json::object());
  ASSERT_FALSE(unknown.ok());
  EXPECT_NE(unknown.error().message.find("y.toml: line 3, column 10: box: expected one of"), std::string::npos)
      << unknown.error().message;
  EXPECT_NE(unknown.error().message.find("did you mean \"config\"?"), std::string::npos);
  const auto without = parse_toml("[box]\nmatch = \"a\"\nconfig = {}\n", "z.toml");
  EXPECT_NE(config_for_format(*without->find("box"), "box", json::object())
                .error()
                .message.find("box.tensors: expected a table, got none"),
            std::string::npos);
}

}  // namespace
}  // namespace patchbay
