// The language, case by case against what Python's Jinja2 made of the same templates
// (tests/data/templates/make_cases.py).
#include "core/model/template/template.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <thread>

namespace patchbay {
namespace {

using nlohmann::ordered_json;

ordered_json read_cases(const std::string& name) {
  std::ifstream in(std::filesystem::path(PATCHBAY_SOURCE_DIR) / "tests/data/templates" / (name + ".cases.json"));
  return ordered_json::parse(in);
}

std::tm fixed_time() {
  std::tm t{};
  t.tm_year = 126;
  t.tm_mday = 2;
  t.tm_hour = 3;
  t.tm_min = 4;
  t.tm_sec = 5;
  std::mktime(&t);
  return t;
}

moe::Result<std::string> run(const std::string& source, const ordered_json& context = ordered_json::object()) {
  const auto parsed = Template::parse(source);
  if (!parsed.ok()) return parsed.error();
  return parsed->render(context, {}, fixed_time());
}

class Cases : public testing::TestWithParam<std::string> {};

TEST_P(Cases, give_the_text_or_error_of_jinja2) {
  const ordered_json cases = read_cases(GetParam());
  ASSERT_GE(cases.size(), 10u);
  for (const ordered_json& c : cases) {
    const std::string source = c["template"];
    const auto text = run(source, c["context"]);
    if (c.contains("text")) {
      EXPECT_TRUE(text.ok()) << source << "\n" << text.error().message;
      if (text.ok()) {
        EXPECT_EQ(*text, c["text"].get<std::string>()) << source;
      }
      continue;
    }
    EXPECT_FALSE(text.ok()) << source << "\nexpected " << c["error"] << "\ngot: " << *text;
    if (text.ok() || !c.contains("line")) continue;
    const std::string line = "line " + c["line"].dump() + ": ";
    EXPECT_EQ(text.error().message.substr(0, line.size()), line)
        << source << "\nexpected " << c["error"] << "\ngot " << text.error().message;
  }
}

INSTANTIATE_TEST_SUITE_P(jinja2, Cases, testing::Values("builtins", "expressions", "models", "statements", "syntax"),
                         [](const auto& p) { return p.param; });

TEST(Template, names_the_line_and_the_reason_of_an_error) {
  EXPECT_EQ(run("a\n{{ missing.x }}").error().message, "line 2: 'missing' is undefined");
  EXPECT_EQ(run("{{ {}.x.y }}").error().message, "line 1: 'dict object' has no attribute 'x'");
  EXPECT_EQ(run("{% if 1 %}\n\n{{ raise_exception('Roles must alternate') }}{% endif %}").error().message,
            "line 3: Roles must alternate");
  EXPECT_EQ(run("\n{% if 1 %}").error().message, "line 2: expected '{% endif %}', got end of template");
  EXPECT_EQ(run("\r\n\r\n{{ 1 + }}").error().message, "line 3: expected an expression, got '}}'");
  EXPECT_EQ(run("{{ [].append(1) }}").error().message,
            "line 1: access to attribute 'append' of 'list' object is unsafe.");
}

TEST(Template, refuses_integers_beyond_64_bits_instead_of_wrapping) {
  const char* const sources[] = {"{{ 9223372036854775808 }}",
                                 "{{ 9223372036854775807 + 1 }}",
                                 "{{ 0 - 9223372036854775807 - 2 }}",
                                 "{{ 4611686018427387904 * 2 }}",
                                 "{{ 10 ** 19 }}",
                                 "{{ 2 ** 9223372036854775807 }}",
                                 "{{ '9223372036854775808'|int }}",
                                 "{{ 1e30|int }}",
                                 "{{ (0 - 9223372036854775807 - 1)|abs }}",
                                 "{{ (0 - 9223372036854775807 - 1) // -1 }}"};
  for (const char* source : sources) {
    const auto text = run(source);
    EXPECT_FALSE(text.ok()) << source << " gave " << *text;
    if (!text.ok()) {
      EXPECT_NE(text.error().message.find("64 bits"), std::string::npos) << text.error().message;
    }
  }
  EXPECT_EQ(*run("{{ (0 - 9223372036854775807 - 1) % -1 }}"), "0");
  EXPECT_EQ(run("{{ x }}", {{"x", 18446744073709551615ULL}}).error().message,
            "variable 'x': expected an integer within 64 bits, got a larger one");
}

TEST(Template, refuses_text_that_is_no_utf8) {
  EXPECT_FALSE(run("a\xff").ok());
  EXPECT_FALSE(run("\xed\xa0\x80").ok());
  EXPECT_FALSE(run("\xc0\xaf").ok());
  EXPECT_FALSE(run("{{ '\\ud800' }}").ok());
  EXPECT_EQ(*run("{{ '\\ufffd' }}\xef\xbf\xbd"), "\xef\xbf\xbd\xef\xbf\xbd");
}

TEST(Template, takes_a_context_of_malformed_text_without_harm) {
  const auto text =
      run("{{ s|length }}{{ s[0]|length }}{{ s[::-1]|length }}{{ s.split('x')|length }}", {{"s", "\x80\xffx\xc3"}});
  ASSERT_TRUE(text.ok()) << text.error().message;
  EXPECT_EQ(*text, "4132");
  EXPECT_TRUE(
      run("{{ s|upper }}{{ s|title }}{{ s|tojson(ensure_ascii=true) }}{{ [s] }}", {{"s", "\x80\xffx\xc3"}}).ok());
}

TEST(Template, reads_context_keys_in_order_and_many_of_them) {
  ordered_json object = ordered_json::object();
  std::string expected;
  for (int i = 0; i < 100; ++i) {
    const std::string key = fmt::format("k{}", 99 - i);
    object[key] = i;
    expected += key;
    expected += ' ';
  }
  EXPECT_EQ(*run("{% for k in d %}{{ k }} {% endfor %}", {{"d", object}}), expected);
  EXPECT_EQ(*run("{{ d.k7 }} {{ d['k99'] }} {{ 'k50' in d }} {{ 'k100' in d }}", {{"d", object}}), "92 0 True False");
}

TEST(Template, renders_on_many_threads_at_once) {
  const auto parsed =
      Template::parse("{% macro m(x) %}<{{ x }}>{% endmacro %}{% for i in range(n) %}{{ m(i) }}{% endfor %}");
  ASSERT_TRUE(parsed.ok());
  std::vector<std::string> texts(4);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < texts.size(); ++i) {
    threads.emplace_back([&, i] {
      for (int k = 0; k < 20; ++k) texts[i] = *parsed->render({{"n", 50 + i}});
    });
  }
  for (auto& t : threads) t.join();
  for (size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(texts[i], *parsed->render({{"n", 50 + i}}));
}

}  // namespace
}  // namespace patchbay
