// The sandbox: whatever a template tries, it ends soon, with an error, in bounded memory.
#include <gtest/gtest.h>

#include <string>

#include "core/model/template/template.hpp"

namespace patchbay {
namespace {

using nlohmann::ordered_json;

moe::Result<std::string> run_within(const std::string& source, const TemplateBudget& budget = {},
                                    const ordered_json& context = ordered_json::object()) {
  const auto parsed = Template::parse(source);
  if (!parsed.ok()) return parsed.error();
  return parsed->render(context, budget);
}

std::string repeat(const std::string& text, size_t n) {
  std::string out;
  for (size_t i = 0; i < n; ++i) out += text;
  return out;
}

class Hostile : public testing::TestWithParam<std::string> {};

TEST_P(Hostile, template_runs_into_a_budget) {
  const auto text = run_within(GetParam());
  ASSERT_FALSE(text.ok()) << GetParam().substr(0, 100);
  EXPECT_EQ(text.error().code, MOE_RESOURCE_EXHAUSTED) << text.error().message;
  EXPECT_EQ(text.error().message.substr(0, 5), "line ") << text.error().message;
}

const std::string kNest = "{% set n = namespace(x=[]) %}{% for i in range(10000) %}";

INSTANTIATE_TEST_SUITE_P(
    templates, Hostile,
    testing::Values(
        "{% for i in range(1000000000) %}x{% endfor %}", "{{ range(9223372036854775807) }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(9999) %}{{ range(99999)|sort|length }}{% endfor %}", "{{ 'a' * 1000000000 }}",
        "{{ 'a' * 9223372036854775807 }}", "{{ [0] * 1000000000 }}", "{{ ([0] * 1000) * 9223372036854775807 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{% macro f(a=f()) %}{% endmacro %}{{ f() }}",
        "{% macro f() %}{% call f() %}{{ caller }}{% endcall %}{{ caller }}{% endmacro %}{{ f() }}",
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s.replace('', n.s) %}{% endfor %}",
        "{% set n = namespace(s=['ab']) %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
        kNest + "{% set n.x = [n.x] %}{% endfor %}", kNest + "{% set n.x = {'k': n.x} %}{% endfor %}",
        kNest + "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}", "{% set n = namespace() %}{% set n.n = n %}{{ n }}",
        "{% set n = namespace() %}{% set n.n = [n, n] %}{{ n }}", "{{ ' '.center(999999999999) }}",
        "{{ '%999999999d' % 1 }}", "{{ '{:999999999}'.format(1) }}", "{{ '%.999999f' % 1.5 }}",
        "{{ 'x'|indent(999999999) }}", "{{ 'x'.zfill(999999999999) }}", "{{ 'x'|center(999999999999) }}",
        "{{ [1]|tojson(indent=999999999) }}", "{{ [1]|batch(999999999, 0)|list }}", "{{ [1]|slice(999999999)|list }}",
        "{{ strftime_now('%2000d') }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = [i] %}{% endfor %}{% endfor %}",
        "{% set n = namespace(l=[]) %}{% for i in range(99999) %}{% set n.l = n.l + ['x' * 9999] %}{% endfor %}",
        "{% set s = 'a' * 999999 %}{% for i in range(9999) %}{% if s + 'b' in s %}{% endif %}{% endfor %}",
        "{% set s = 'a' * 999999 %}{% for i in range(9999) %}{{ s }}{% endfor %}",
        "{% set s = 'é' * 99999 %}{% for i in range(99999) %}{% set c = s[i] %}{% endfor %}"));

TEST(TemplateBudget, bounds_nesting_of_the_source) {
  const std::string sources[] = {
      "{{ " + repeat("(", 100000) + "1" + repeat(")", 100000) + " }}",
      "{{ " + repeat("[", 100000) + repeat("]", 100000) + " }}",
      "{{ " + repeat("not ", 100000) + "1 }}",
      "{{ " + repeat("-", 100000) + "1 }}",
      "{{ 1" + repeat(" + 1", 100000) + " }}",
      "{{ a" + repeat(".b", 100000) + " }}",
      "{{ a" + repeat("[0]", 100000) + " }}",
      "{{ a" + repeat("()", 100000) + " }}",
      "{{ a" + repeat("|e", 100000) + " }}",
      "{{ 1" + repeat(" if 1 else 1", 50000) + " }}",
      repeat("{% if 1 %}", 40000) + repeat("{% endif %}", 40000),
      repeat("{% for a in b %}", 30000) + repeat("{% endfor %}", 30000),
      "{% set " + repeat("(", 100000) + "a" + repeat(")", 100000) + " = 1 %}",
      "{{ " + repeat("{1:", 50000) + "1" + repeat("}", 50000) + " }}",
      "{% filter e" + repeat("|e", 100000) + " %}{% endfilter %}",
  };
  for (const std::string& source : sources) {
    const auto text = run_within(source);
    ASSERT_FALSE(text.ok()) << source.substr(0, 40);
    EXPECT_EQ(text.error().message.substr(0, 8), "line 1: ") << text.error().message;
  }
}

TEST(TemplateBudget, lets_long_flat_templates_pass) {
  EXPECT_EQ(*run_within(repeat("{% if 0 %}a{% elif 1 %}b{% endif %}", 5000)), repeat("b", 5000));
  EXPECT_EQ(run_within("{{ [" + repeat("1,", 50000) + "]|length }}").value(), "50000");
  EXPECT_EQ(*run_within("{{ 'a'" + repeat(" ~ 'a'", 5000) + " }}"), repeat("a", 5001));
}

TEST(TemplateBudget, refuses_sources_of_more_than_a_mebibyte) {
  EXPECT_TRUE(run_within(std::string(1 << 20, 'a')).ok());
  EXPECT_EQ(run_within(std::string((1 << 20) + 1, 'a')).error().code, MOE_RESOURCE_EXHAUSTED);
}

TEST(TemplateBudget, counts_steps_and_output_and_depth_as_told) {
  const std::string loop = "{% for i in range(10) %}xxxxxxxxxx{% endfor %}";
  TemplateBudget budget;
  budget.max_output_bytes = 100;
  EXPECT_EQ(run_within(loop, budget)->size(), 100u);
  budget.max_output_bytes = 99;
  EXPECT_EQ(run_within(loop, budget).error().code, MOE_RESOURCE_EXHAUSTED);
  budget = {};
  budget.max_steps = 20;
  EXPECT_EQ(run_within(loop, budget).error().code, MOE_RESOURCE_EXHAUSTED);
  budget = {};
  budget.max_depth = 5;
  EXPECT_TRUE(run_within("{{ 1 + (1 + 1) }}", budget).ok());
  EXPECT_EQ(run_within("{{ 1 + (1 + (1 + (1 + 1))) }}", budget).error().code, MOE_RESOURCE_EXHAUSTED);
}

TEST(TemplateBudget, counts_what_is_captured_as_output) {
  TemplateBudget budget;
  budget.max_output_bytes = 100;
  EXPECT_FALSE(run_within("{% set x %}{{ 'a' * 101 }}{% endset %}", budget).ok());
  EXPECT_TRUE(run_within("{% for i in range(5) %}{% set x %}{{ 'a' * 90 }}{% endset %}{% endfor %}", budget).ok());
}

TEST(TemplateBudget, frees_what_is_no_longer_used) {
  TemplateBudget budget;
  budget.max_memory_bytes = 1 << 16;
  EXPECT_TRUE(run_within("{% for i in range(100) %}{% set s = 'a' * 10000 %}{% endfor %}", budget).ok());
  EXPECT_FALSE(
      run_within(
          "{% set n = namespace(l=[]) %}{% for i in range(100) %}{% set n.l = n.l + ['a' * 10000] %}{% endfor %}",
          budget)
          .ok());
}

TEST(TemplateBudget, survives_cycles_and_long_chains_of_what_can_hold_itself) {
  const char* const sources[] = {
      "{% set n = namespace() %}{% set n.n = [n, {'n': n}] %}",
      "{% set n = namespace() %}{% for i in range(50000) %}{% set n.m = namespace(prev=n.m) %}{% endfor %}",
      "{% set n = namespace(m='') %}{% for i in range(20000) %}{% set prev = n.m %}{% macro m() %}{{ prev }}{% "
      "endmacro %}"
      "{% set n.m = m %}{% endfor %}",
      "{% for i in [1] %}{{ loop.changed(loop) }}{{ loop.changed([loop]) }}{% set l = loop %}{% endfor %}",
      "{% macro m() %}{{ m }}{% endmacro %}{% set c = cycler(m, m) %}{% set j = joiner(c) %}{% set k = [c, j] %}"};
  for (const char* source : sources) {
    const auto text = run_within(source);
    EXPECT_TRUE(text.ok()) << text.error().message;
  }
}

TEST(TemplateBudget, bounds_nesting_of_the_context) {
  ordered_json deep;
  for (int i = 0; i < 500; ++i) deep = ordered_json::array({std::move(deep)});
  EXPECT_EQ(run_within("{{ x }}", {}, {{"x", deep}}).error().code, MOE_RESOURCE_EXHAUSTED);
}

TEST(TemplateBudget, lets_a_conversation_of_four_megabytes_pass) {
  ordered_json messages = ordered_json::array();
  for (int i = 0; i < 4000; ++i)
    messages.push_back({{"role", i % 2 == 0 ? "user" : "assistant"}, {"content", std::string(1000, 'a')}});
  const auto text =
      run_within("{% for m in messages %}{{ '<' + m.role + '>' + m['content'] | trim + '\n' }}{% endfor %}", {},
                 {{"messages", messages}});
  ASSERT_TRUE(text.ok()) << text.error().message;
  EXPECT_GT(text->size(), 4'000'000u);
}

}  // namespace
}  // namespace patchbay
