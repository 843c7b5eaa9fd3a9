#include "core/config/toml_file.hpp"

#include <fmt/format.h>

#include "core/model/json/json.hpp"

// toml++ 3.3 asserts that a table header begins with a character of a key, of which it has not made sure: "[;" would
// abort, or under NDEBUG become a promise to clang's optimizer. Without the assertion it reports the character as the
// error that it is.
#undef NDEBUG
#define TOML_ASSERT(expression) static_cast<void>(0)
#include <toml++/toml.h>

namespace patchbay {
namespace {

constexpr size_t kMaxBytes = size_t{4} << 20;

class Converter {
 public:
  explicit Converter(const std::string& source) : source_(source) {}

  moe::Result<TomlNode> convert(const toml::node& node) {
    TomlNode out;
    out.source = source_;
    out.line = node.source().begin.line;
    out.column = node.source().begin.column;
    if (const auto* table = node.as_table()) {
      TomlTable members;
      for (const auto& [key, child] : *table) {
        MOE_ASSIGN(TomlNode value, convert(child));
        members.emplace_back(std::string(key.str()), std::move(value));
      }
      out.value = std::move(members);
    } else if (const auto* array = node.as_array()) {
      TomlArray items;
      for (const auto& child : *array) {
        MOE_ASSIGN(TomlNode value, convert(child));
        items.push_back(std::move(value));
      }
      out.value = std::move(items);
    } else if (const auto* b = node.as_boolean()) {
      out.value = b->get();
    } else if (const auto* i = node.as_integer()) {
      out.value = i->get();
    } else if (const auto* f = node.as_floating_point()) {
      out.value = f->get();
    } else if (const auto* s = node.as_string()) {
      out.value = s->get();
    } else {
      return moe::invalid(
          fmt::format("{}: expected a boolean, number, string, array or table, got a date or time", out.where()));
    }
    return out;
  }

 private:
  const std::string& source_;
};

}  // namespace

std::string TomlNode::where() const {
  return line == 0 ? source : fmt::format("{}: line {}, column {}", source, line, column);
}

const TomlNode* TomlNode::find(std::string_view key) const {
  const auto* members = table();
  if (members == nullptr) return nullptr;
  for (const auto& [name, child] : *members) {
    if (name == key) return &child;
  }
  return nullptr;
}
TomlNode* TomlNode::find(std::string_view key) { return const_cast<TomlNode*>(std::as_const(*this).find(key)); }

const char* TomlNode::type_name() const {
  constexpr const char* kNames[] = {"a boolean", "an integer", "a number", "a string", "an array", "a table"};
  return kNames[value.index()];
}

// The library limits nesting itself (to 256), so neither it nor the conversion can run out of stack.
moe::Result<TomlNode> parse_toml(std::string_view text, const std::string& source) {
  const toml::parse_result parsed = toml::parse(text, source);
  if (!parsed) {
    const auto& at = parsed.error().source().begin;
    return moe::invalid(
        fmt::format("{}: line {}, column {}: {}", source, at.line, at.column, parsed.error().description()));
  }
  return Converter(source).convert(parsed.table());
}

moe::Result<TomlNode> parse_toml_file(const std::filesystem::path& path) {
  MOE_ASSIGN(const std::string text, read_file(path, kMaxBytes));
  return parse_toml(text, path.string());
}

moe::Result<TomlNode> parse_override(std::string_view assignment) {
  const std::string source = fmt::format("--set {}", assignment);
  const size_t equals = assignment.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    return moe::invalid(fmt::format("{}: expected key=value, got no \"=\"", source));
  }
  auto node = parse_toml(assignment, source);
  if (node.ok()) return node;
  std::string quoted = std::string(assignment.substr(0, equals)) + "= \"";
  for (const char c : assignment.substr(equals + 1)) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  auto as_string = parse_toml(quoted + "\"", source);
  // What looks like a structure was meant as one: its own error is the useful one.
  const bool structured = assignment.find_first_of("[{\"'", equals) != std::string_view::npos;
  return as_string.ok() && !structured ? as_string : node;
}

void merge(TomlNode& base, const TomlNode& over) {
  auto* base_table = std::get_if<TomlTable>(&base.value);
  const auto* over_table = over.table();
  if (base_table == nullptr || over_table == nullptr) {
    base = over;
    return;
  }
  for (const auto& [key, child] : *over_table) {
    if (TomlNode* mine = base.find(key)) {
      merge(*mine, child);
    } else {
      base_table->emplace_back(key, child);
    }
  }
}

}  // namespace patchbay
