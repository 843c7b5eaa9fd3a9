#include "core/model/architecture/expression.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>

namespace patchbay {
namespace {

using nlohmann::json;

const json& config() {
  static const json kConfig = json::parse(R"({
    "hidden_size": 2048, "num_attention_heads": 16, "num_experts": 64, "rms_norm_eps": 1e-6, "hidden_act": "silu",
    "tie_word_embeddings": false, "sliding_window": null, "rope_scaling": {"type": "yarn", "factor": 40, "if": 7},
    "layer_types": ["linear", "linear", "linear", "full"], "mlp_only_layers": [], "first_k_dense_replace": 3,
    "big": 18446744073709551615, "stages": [{"k": 1}, {"k": 2}]})");
  return kConfig;
}

std::string show(const Value& value) {
  if (const auto* b = value.as<bool>()) return *b ? "true" : "false";
  if (const auto* i = value.as<int64_t>()) return std::to_string(*i);
  if (const auto* d = value.as<double>()) return json(*d).dump();
  if (const auto* s = value.as<std::string>()) return fmt::format("'{}'", *s);
  if (const auto* l = value.as<Value::List>()) {
    std::string out;
    for (const auto& element : *l) out += (out.empty() ? "" : ", ") + show(element);
    return fmt::format("[{}]", out);
  }
  return "null";
}

// The value as it would be written, or the error.
std::string run(std::string_view text, const std::map<std::string, Value>& variables = {}) {
  const auto expression = Expression::parse(text);
  if (!expression.ok()) return expression.error().message;
  const auto value = expression->evaluate(config(), variables);
  return value.ok() ? show(*value) : value.error().message;
}

struct Row {
  const char* text;
  const char* result;
};
void check(std::initializer_list<Row> rows) {
  for (const auto& row : rows) EXPECT_EQ(run(row.text, {{"layer", 3}}), row.result) << row.text;
}

TEST(Expression, literals_stand_for_themselves) {
  check({{"42", "42"},
         {"1.5", "1.5"},
         {"1e-6", "1e-06"},
         {"1.", "1.0"},
         {"'it\\'s \\\\'", "'it's \\'"},
         {"''", "''"},
         {"true", "true"},
         {"null", "null"},
         {"[1, 'a', [2.5],]", "[1, 'a', [2.5]]"},
         {"[]", "[]"},
         {" ( 7 ) ", "7"}});
}

TEST(Expression, keys_are_looked_up_by_dotted_path) {
  check({{"hidden_size", "2048"},
         {"rope_scaling.factor", "40"},
         {"rope_scaling.if", "7"},
         {"rope_scaling['type']", "'yarn'"},
         {"sliding_window", "null"},
         {"stages[1].k", "2"},
         {"layer_types", "['linear', 'linear', 'linear', 'full']"}});
}

TEST(Expression, a_missing_key_is_an_error_that_names_it) {
  check({{"head_dim", "column 1: expected key 'head_dim' in config.json, got none"},
         {"2 * rope_scaling.mscale", "column 18: expected key 'rope_scaling.mscale' in config.json, got none"},
         {"a.b.c", "column 1: expected key 'a' in config.json, got none"},
         {"sliding_window.size", "column 16: expected key 'sliding_window.size' in config.json, got none"},
         {"stages[0].n", "column 11: expected key 'stages[...].n' in config.json, got none"},
         {"len(a)", "column 5: expected key 'a' in config.json, got none"},
         {"a == null", "column 1: expected key 'a' in config.json, got none"}});
}

TEST(Expression, coalesce_replaces_what_is_missing_or_null_and_binds_between_arithmetic_and_comparison) {
  check({{"head_dim ?? hidden_size // num_attention_heads", "128"},
         {"sliding_window ?? 4096", "4096"},
         {"a.b.c ?? d ?? 5", "5"},
         {"sliding_window.size ?? 1", "1"},
         {"a[layer] ?? 1", "1"},
         {"rope_scaling['mscale'] ?? 1.0", "1.0"},
         {"false ?? true", "false"},
         {"layer >= first_k_dense_replace ?? 0", "true"},
         {"(n_shared ?? null) == null", "true"},
         {"a ?? b", "column 6: expected key 'b' in config.json, got none"},
         {"a + 1 ?? 2", "column 1: expected key 'a' in config.json, got none"},
         {"num_experts ?? 1 / 0", "64"}});
}

TEST(Expression, arithmetic_follows_python) {
  check({{"1 + 2 * 3 - 4", "3"},
         {"(1 + 2) * 3", "9"},
         {"10 - 3 - 2", "5"},
         {"7 / 2", "3.5"},
         {"8 / 2", "4.0"},
         {"7 // 2", "3"},
         {"-7 // 2", "-4"},
         {"7 // -2", "-4"},
         {"-7 % 4", "1"},
         {"7 % -4", "-1"},
         {"-8 % 4", "0"},
         {"7.5 // 2", "3.0"},
         {"-7.5 % 2", "0.5"},
         {"5 % -1", "0"},
         {"1 + 0.5", "1.5"},
         {"--3", "3"},
         {"-hidden_size", "-2048"}});
}

TEST(Expression, overflow_and_division_by_zero_are_errors) {
  const std::string big = "column 21: expected an integer of 64 bits, got a larger one";
  EXPECT_EQ(run("9223372036854775807 + 1"), big);
  EXPECT_EQ(run("9223372036854775807 * 2"), big);
  EXPECT_EQ(run("-9223372036854775807 - 2"), "column 22: expected an integer of 64 bits, got a larger one");
  EXPECT_EQ(run("(-9223372036854775807 - 1) // -1").substr(0, 11), "column 28: ");
  EXPECT_EQ(run("(-9223372036854775807 - 1) % -1"), "0");
  EXPECT_EQ(run("-(-9223372036854775807 - 1)").substr(0, 9), "column 1:");
  EXPECT_EQ(run("abs(-9223372036854775807 - 1)").substr(0, 9), "column 1:");
  check({{"1 / 0", "column 3: expected a divisor other than 0, got 0"},
         {"1 // 0", "column 3: expected a divisor other than 0, got 0"},
         {"1 % 0.0", "column 3: expected a divisor other than 0, got 0"},
         {"1e308 * 10", "column 7: expected a finite result, got inf"},
         {"9223372036854775808", "column 1: expected a number in range, got '9223372036854775808'"},
         {"1e999", "column 1: expected a number in range, got '1e999'"},
         {"big", "column 1: expected an integer below 2^63, got 18446744073709551615"},
         {"int(1e300)", "column 1: expected an integer of 64 bits, got a larger one"},
         {"sqrt(-1)", "column 1: expected a number from 0 for sqrt, got -1"},
         {"log(0)", "column 1: expected a number above 0 for log, got 0"}});
}

TEST(Expression, comparisons_are_exact_and_typed) {
  check({{"1 < 2", "true"},
         {"2 <= 1", "false"},
         {"1 == 1.0", "true"},
         {"9007199254740993 == 9007199254740992.0", "false"},
         {"9007199254740993 > 9007199254740992.0", "true"},
         {"-3 < -2.5", "true"},
         {"1 < 1e300", "true"},
         {"'a' < 'b'", "true"},
         {"'silu' == hidden_act", "true"},
         {"1 == '1'", "false"},
         {"1 == true", "false"},
         {"[1, 2] == [1.0, 2]", "true"},
         {"[1] != [1, 2]", "true"},
         {"rope_scaling == null", "false"},
         {"rope_scaling != null", "true"},
         {"mlp_only_layers == []", "true"},
         {"1 < 'a'", "column 3: expected two numbers or two strings, got 1 and 'a'"},
         {"1 < 2 < 3", "column 7: expected an operator or the end, got '<'"},
         {"rope_scaling == rope_scaling", "column 14: expected values to compare, got two maps"}});
}

TEST(Expression, logic_takes_bools_and_stops_early) {
  check({{"true and not false", "true"},
         {"false and nowhere", "false"},
         {"true or nowhere", "true"},
         {"not not true", "true"},
         {"not 1 == 2", "true"},
         {"true or false and false", "true"},
         {"not tie_word_embeddings", "true"},
         {"1 and true", "column 1: expected true or false, got 1"},
         {"not sliding_window", "column 5: expected true or false, got null"}});
}

TEST(Expression, the_conditional_is_lazy_and_chains) {
  check({{"'dense' if layer < first_k_dense_replace else 'moe'", "'moe'"},
         {"nowhere if false else 2", "2"},
         {"1 if true else 1 / 0", "1"},
         {"1 if false else 2 if false else 3", "3"},
         {"(nowhere if true else 1) ?? 4", "4"},
         {"1 if 1 else 2", "column 6: expected true or false, got 1"},
         {"1 if true", "column 10: expected 'else', got the end"}});
}

TEST(Expression, indexes_count_from_both_ends_and_are_checked) {
  check({{"layer_types[layer]", "'full'"},
         {"layer_types[-1]", "'full'"},
         {"layer_types[-4]", "'linear'"},
         {"[[1, 2], [3]][0][1]", "2"},
         {"layer_types[4]", "column 12: expected an index of this list of 4, got 4"},
         {"layer_types[-5]", "column 12: expected an index of this list of 4, got -5"},
         {"layer_types[4] ?? 1", "column 12: expected an index of this list of 4, got 4"},
         {"layer_types['a']", "column 12: expected an integer as index of this list, got 'a'"},
         {"rope_scaling[0]", "column 13: expected a string as key of this map, got 0"},
         {"hidden_size[0]", "column 12: expected a list or a map before '[', got 2048"},
         {"hidden_size.x", "column 13: expected a map before '.x', got 2048"}});
}

TEST(Expression, in_looks_into_lists_maps_and_strings) {
  check({{"layer in [1, 2, 3]", "true"},
         {"layer not in mlp_only_layers", "true"},
         {"3.0 in [3]", "true"},
         {"'full' in layer_types", "true"},
         {"'factor' in rope_scaling", "true"},
         {"'mscale' in rope_scaling", "false"},
         {"'il' in hidden_act", "true"},
         {"1 in 'abc'", "column 3: expected a list, a map or two strings with 'in', got 1 and 'abc'"},
         {"1 in rope_scaling", "column 3: expected a string to look for in a map, got 1"}});
}

TEST(Expression, functions_do_what_they_say) {
  check({{"each(layer_types, 3)", "'full'"},
         {"each(num_experts, 3)", "64"},
         {"each(['a', 'b'], first_k_dense_replace - 2)", "'b'"},
         {"len(layer_types) + len('abc') + len(rope_scaling) + len([])", "10"},
         {"min(3, 1.5, 2)", "1.5"},
         {"max([1, 5, 2])", "5"},
         {"max(num_experts, hidden_size // 64)", "64"},
         {"abs(-3)", "3"},
         {"abs(-2.5)", "2.5"},
         {"int(2.9)", "2"},
         {"int(-2.9)", "-2"},
         {"int(true)", "1"},
         {"float(2)", "2.0"},
         {"sqrt(16)", "4.0"},
         {"floor(-1.5)", "-2"},
         {"ceil(1.2)", "2"},
         {"round(2.5)", "2"},
         {"round(3.5)", "4"},
         {"log(1)", "0.0"},
         {"has(hidden_size)", "true"},
         {"has(sliding_window)", "false"},
         {"has(rope_scaling.mscale)", "false"},
         {"has(nowhere.at.all)", "false"},
         {"has(rope_scaling['factor'])", "true"},
         {"has(layer)", "true"},
         {"min([])", "column 1: expected at least one number for min, got an empty list"},
         {"max('a', 1)", "column 1: expected numbers for max, got 'a'"},
         {"abs('a')", "column 1: expected a number for abs, got 'a'"},
         {"abs(true)", "column 1: expected a number for abs, got true"},
         {"each(layer_types, 4)", "column 1: expected an index of this list of 4, got 4"},
         {"each(layer_types)", "column 1: expected 2 arguments for each, got 1"},
         {"each(nothing, 0)", "column 6: expected key 'nothing' in config.json, got none"},
         {"len(1)", "column 1: expected a list, a map or a string for len, got 1"},
         {"abs()", "column 1: expected 1 argument for abs, got 0"},
         {"abs(1, 2)", "column 1: expected 1 argument for abs, got 2"},
         {"has(1 + 1)", "column 1: expected a key in has(...), got another expression"}});
  EXPECT_NE(run("pow(1, 2)").find("expected one of the functions len, min"), std::string::npos) << run("pow(1, 2)");
}

TEST(Expression, variables_win_over_keys) {
  EXPECT_EQ(run("hidden_size + layer", {{"hidden_size", 1}, {"layer", 2}}), "3");
  EXPECT_EQ(run("kinds[layer]", {{"kinds", Value::List{"a", "b"}}, {"layer", 1}}), "'b'");
  EXPECT_EQ(run("gone ?? 1", {{"gone", nullptr}}), "1");
  EXPECT_EQ(run("x", {{"x", std::numeric_limits<double>::quiet_NaN()}}), "column 1: expected a finite number, got nan");
}

TEST(Expression, says_where_the_text_breaks) {
  check({{"", "column 1: expected a value, got the end"},
         {"1 +", "column 4: expected a value, got the end"},
         {"1 2", "column 3: expected an operator or the end, got '2'"},
         {"(1", "column 3: expected ')', got the end"},
         {"[1 2]", "column 4: expected ',' or ']', got '2'"},
         {"a.1", "column 3: expected a key after '.', got '1'"},
         {"'abc", "column 1: expected a closing ' for this string, got none"},
         {"'a\\n'", "column 4: expected ' or \\ after \\, got 'n'"},
         {"12abc", "column 3: expected an operator after the number, got 'a'"},
         {"a & b", "column 3: expected an expression, got '&'"},
         {"if", "column 1: expected a value, got 'if'"},
         {"a not b", "column 7: expected 'in', got 'b'"}});
  EXPECT_EQ(run("\xff"), "column 1: expected an expression, got '?'");
}

TEST(Expression, a_map_is_no_result) {
  check({{"rope_scaling", "column 1: expected a value, got a map"},
         {"stages", "column 1: expected a list of values, got a list that holds a map"},
         {"rope_scaling + 1", "column 1: expected a number, got a map"}});
}

std::string repeated(std::string_view part, size_t n) {
  std::string text;
  for (size_t i = 0; i < n; ++i) text += part;
  return text;
}

TEST(Expression, depth_and_size_are_limited_whatever_recurses) {
  for (const auto* part : {"(", "[", "-", "not ", "1??", "1 if true else ", "a[", "abs("}) {
    EXPECT_NE(run(repeated(part, 250)).find("at most 64 levels of nesting, got more"), std::string::npos) << part;
  }
  for (const auto* part : {"1+", "true and ", "1 - 1 * "}) {
    EXPECT_NE(run(repeated(part, 300) + "1").find("at most 64 levels of nesting, got more"), std::string::npos) << part;
  }
  EXPECT_NE(run(fmt::format("a{}", repeated(".b", 300))).find("at most 64 levels"), std::string::npos);
  EXPECT_EQ(run(repeated("(", 60) + "1" + repeated(")", 60)), "1");
  EXPECT_EQ(run(repeated("1+", 50) + "1"), "51");
  EXPECT_EQ(run(std::string(4097, ' ')), "column 1: expected at most 4096 bytes, got 4097");
}

TEST(Expression, work_is_limited) {
  json big;
  big["l"] = json::array();
  for (int i = 0; i < 20000; ++i) big["l"].push_back(i);
  const auto many = Expression::parse(fmt::format("[{}]", repeated("l,", 500)));
  ASSERT_TRUE(many.ok());
  const auto value = many->evaluate(big);
  ASSERT_FALSE(value.ok());
  EXPECT_NE(value.error().message.find("expected at most 1048576 steps, got more"), std::string::npos);
  const auto one = Expression::parse("l[-1] + len(l)");  // looks without copying
  ASSERT_TRUE(one.ok());
  EXPECT_EQ(show(*one->evaluate(big)), "39999");
}

TEST(Expression, a_deep_list_in_the_config_is_an_error) {
  json deep = 1;
  for (int i = 0; i < 200; ++i) deep = json::array({std::move(deep)});
  const auto expression = Expression::parse("x == 1");
  ASSERT_TRUE(expression.ok());
  const auto value = expression->evaluate(json{{"x", deep}});
  ASSERT_FALSE(value.ok());
  EXPECT_NE(value.error().message.find("at most 64 deep"), std::string::npos) << value.error().message;
}

TEST(Expression, a_config_that_is_no_map_has_no_keys) {
  const auto expression = Expression::parse("a ?? 3");
  ASSERT_TRUE(expression.ok());
  EXPECT_EQ(show(*expression->evaluate(json::array({1}))), "3");
  EXPECT_EQ(show(*expression->evaluate(json())), "3");
}

}  // namespace
}  // namespace patchbay
