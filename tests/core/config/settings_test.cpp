#include "core/config/settings.hpp"

#include <gtest/gtest.h>

namespace patchbay {
namespace {

std::string error_of(std::string_view text) {
  const auto settings = settings_from_text(text, "a.toml");
  return settings.ok() ? "" : settings.error().message;
}

TEST(Settings, a_table_header_that_begins_with_no_character_of_a_key_is_an_error_with_its_place) {
  for (const char* text : {"[;", "[[#", "[=]", "[\n", "[[\x01]]"}) {
    const auto settings = settings_from_text(text, "x.toml");
    ASSERT_FALSE(settings.ok()) << text;
    EXPECT_EQ(settings.error().message.rfind("x.toml: line 1, column ", 0), 0u) << settings.error().message;
  }
}

TEST(Settings, letters_beyond_ascii_stand_in_strings_and_comments_and_nowhere_else) {
  for (const char* text :
       {"ź = 1", "model.ź = 1", "[ź]", "model = ź", "model.path = \"a\\ź\"", "model.path = \"a\" ź"}) {
    EXPECT_EQ(error_of(text).rfind("a.toml: line 1, column ", 0), 0u) << text << ": " << error_of(text);
  }
  const auto settings = settings_from_text("# ź\nmodel.path = \"\"\"\\\nź\"\"\"\n", "/a.toml");
  ASSERT_TRUE(settings.ok()) << settings.error().message;
  EXPECT_EQ(settings->model.path, "/ź");
}

TEST(Settings, an_empty_file_gives_the_defaults) {
  const auto settings = settings_from_text("", "a.toml");
  ASSERT_TRUE(settings.ok()) << settings.error().message;
  EXPECT_EQ(settings->backends.front().plugin, "auto");
  EXPECT_EQ(settings->model.precision, "auto");
  EXPECT_FALSE(settings->router.has_value());
  EXPECT_EQ(settings->engine.batch_size, 32);
}

TEST(Settings, an_unknown_key_is_named_with_its_place_and_the_nearest_right_one) {
  const std::string error = error_of("[engine]\nbatch_sise = 3\n");
  EXPECT_NE(error.find("a.toml: line 2, column 1"), std::string::npos) << error;
  EXPECT_NE(error.find("did you mean \"batch_size\"?"), std::string::npos) << error;
}

TEST(Settings, a_wrong_type_says_what_was_expected_and_what_came) {
  const std::string error = error_of("[engine]\nbatch_size = \"many\"\n");
  EXPECT_NE(error.find("engine.batch_size: expected an integer in [1, 4096], got \"many\""), std::string::npos)
      << error;
  EXPECT_NE(error_of("model = 3").find("model: expected a table, got 3"), std::string::npos) << error_of("model = 3");
}

TEST(Settings, a_value_out_of_range_is_refused) {
  EXPECT_NE(error_of("[engine]\nbatch_size = 0\n").find("got 0"), std::string::npos);
  EXPECT_NE(error_of("[model]\nprecision = \"fp13\"\n").find("expected one of"), std::string::npos);
}

TEST(Settings, limits_of_plans_are_off_by_default_and_may_differ_by_layer) {
  const auto none = settings_from_text("", "c.toml");
  ASSERT_TRUE(none.ok());
  EXPECT_EQ(none->plan, PlanSettings());
  const auto some = settings_from_text(
      "[plan]\ncapacity = 1.25\noverflow = \"weight\"\n[[layer]]\nmatch = 2\nplan = { balance = 0.01 }\n", "c.toml");
  ASSERT_TRUE(some.ok()) << some.error().message;
  EXPECT_EQ(some->plan, (PlanSettings{1.25, Overflow::kWeight, 0}));
  EXPECT_EQ(some->layers.at(0).plan, (PlanSettings{0, Overflow::kPosition, 0.01}));
  for (const auto& [text, message] :
       {std::pair{"[plan]\ncapacity = -1", "plan.capacity: expected a number from 0 to 1000000, got -1"},
        std::pair{"[plan]\nbalance = nan", "plan.balance: expected a number from 0 to 1, got nan"},
        std::pair{"[plan]\noverflow = \"next\"", "plan.overflow"}}) {
    const auto wrong = settings_from_text(text, "c.toml");
    ASSERT_FALSE(wrong.ok()) << text;
    EXPECT_NE(wrong.error().message.find(message), std::string::npos) << wrong.error().message;
  }
}

TEST(Settings, layers_are_matched_by_number_range_and_all) {
  const auto settings = settings_from_text(
      "[[layer]]\nmatch = \"4-\"\nrouter = { plugin = \"topk\", k = 2 }\n[[layer]]\nmatch = 1\nbackend = "
      "\"cpu\"\n[[layer]]\nmatch = \"2-3\"\nbackend = { "
      "attention = \"cpu\", experts = \"reference\" }\n",
      "a.toml");
  ASSERT_TRUE(settings.ok()) << settings.error().message;
  ASSERT_EQ(settings->layers.size(), 3U);
  EXPECT_EQ(settings->layers[0].first, 4);
  EXPECT_EQ(settings->layers[0].router->plugin, "topk");
  EXPECT_EQ(settings->layers[1].last, 1);
  EXPECT_EQ(settings->layers[1].expert_backend, "cpu");
  EXPECT_EQ(settings->layers[2].expert_backend, "reference");
  for (const char* bad : {"", "-", "3-2", "x", "1-y", "--1"}) {
    EXPECT_NE(error_of("[[layer]]\nmatch = \"" + std::string(bad) + "\"\n").find("layer.match"), std::string::npos)
        << bad;
  }
}

TEST(Settings, overrides_lie_on_top_of_the_file_and_take_plain_words) {
  const auto settings = load_settings(
      "", {"router.plugin=topk", "router.k=2", "transport=[{plugin=\"zeromq\",bind=\"tcp://127.0.0.1:5757\"}]"});
  ASSERT_TRUE(settings.ok()) << settings.error().message;
  EXPECT_EQ(settings->router->plugin, "topk");
  ASSERT_EQ(settings->router->options.size(), 1U);
  EXPECT_EQ(std::get<int64_t>(settings->router->options[0].value), 2);
  ASSERT_EQ(settings->transports.size(), 1U);
  EXPECT_FALSE(load_settings("", {"router.k"}).ok());
  EXPECT_FALSE(load_settings("", {"transport=[{plugin="}).ok());
}

TEST(Settings, nesting_100000_deep_is_an_error_with_a_place) {
  const std::string error = error_of("a = " + std::string(100000, '['));
  EXPECT_NE(error.find("a.toml: line 1"), std::string::npos) << error;
}

TEST(Settings, a_folder_for_packed_weights_is_meant_from_the_files_folder_and_may_not_be_empty) {
  const auto folder = [](const char* text) { return settings_from_text(text, "/etc/a.toml")->model.packed_cache; };
  EXPECT_EQ(folder(""), "auto");
  EXPECT_EQ(folder("model.packed_cache = \"off\""), "off");
  EXPECT_EQ(folder("model.packed_cache = \"packed\""), "/etc/packed");
  EXPECT_EQ(folder("model.packed_cache = \"/var/packed\""), "/var/packed");
  EXPECT_EQ(load_settings("", {"model.packed_cache=packed"})->model.packed_cache, "packed");
  EXPECT_EQ(error_of("model.packed_cache = \"\""),
            "a.toml: line 1, column 1: model.packed_cache: expected auto, off or a folder, got \"\"");
}

}  // namespace
}  // namespace patchbay
