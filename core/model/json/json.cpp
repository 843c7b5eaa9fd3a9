#include "core/model/json/json.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <vector>

namespace patchbay {
namespace {

using nlohmann::json;

std::string place(std::string_view text, size_t offset) {
  size_t line = 1;
  size_t column = 1;
  for (size_t i = 0; i < std::min(offset, text.size()); ++i) {
    ++column;
    if (text[i] == '\n') {
      ++line;
      column = 1;
    }
  }
  return fmt::format("line {}, column {}", line, column);
}

// Builds the document from the library's (iterative) parser and refuses what its own builder would let pass.
class Builder final : public nlohmann::json_sax<json> {
 public:
  explicit Builder(JsonLimits limits) : limits_(limits) {}

  bool null() override { return add(nullptr); }
  bool boolean(bool v) override { return add(v); }
  bool number_integer(number_integer_t v) override { return add(v); }
  bool number_unsigned(number_unsigned_t v) override { return add(v); }
  bool number_float(number_float_t v, const string_t&) override { return add(v); }
  bool string(string_t& v) override { return add(std::move(v)); }
  bool binary(binary_t&) override { return fail("binary value"); }
  bool start_object(std::size_t) override { return open(json::object()); }
  bool start_array(std::size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& v) override {
    key_ = std::move(v);
    if (stack_.back()->contains(key_)) return fail(fmt::format("key \"{}\": expected once in its object, got it twice", key_));
    return true;
  }
  bool parse_error(std::size_t position, const std::string& last, const nlohmann::detail::exception& error) override {
    position_ = position;
    const std::string what = error.what();
    const bool overflow = what.find("out_of_range") != std::string::npos;
    message_ = overflow ? "number out of range" : fmt::format("expected valid JSON, got '{}'", printable(last));
    return false;
  }

  json root;
  std::string message_;
  std::optional<size_t> position_;

 private:
  static std::string printable(const std::string& s) {
    std::string out;
    for (const char c : s.substr(0, 40)) out += (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f) ? c : '?';
    return out;
  }
  bool fail(std::string message) {
    message_ = std::move(message);
    return false;
  }
  json* place_value(json&& v) {
    if (stack_.empty()) {
      root = std::move(v);
      return &root;
    }
    json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(v));
      return &parent.back();
    }
    json& slot = parent[key_];
    slot = std::move(v);
    return &slot;
  }
  template <typename V>
  bool add(V&& v) {
    place_value(json(std::forward<V>(v)));
    return true;
  }
  bool open(json&& v) {
    if (stack_.size() >= limits_.max_depth) {
      return fail(fmt::format("nesting: expected at most {} levels, got more", limits_.max_depth));
    }
    stack_.push_back(place_value(std::move(v)));
    return true;
  }
  bool close() {
    stack_.pop_back();
    return true;
  }

  JsonLimits limits_;
  std::vector<json*> stack_;
  std::string key_;
};

// Counts what the parser has read, so that an error of the builder's own has a place too.
struct CountingIterator {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;
  const char* at;
  size_t* n_read;
  reference operator*() const { return *at; }
  CountingIterator& operator++() {
    ++at;
    ++*n_read;
    return *this;
  }
  CountingIterator operator++(int) {
    auto old = *this;
    ++*this;
    return old;
  }
  bool operator==(const CountingIterator& o) const { return at == o.at; }
  bool operator!=(const CountingIterator& o) const { return at != o.at; }
};

}  // namespace

moe::Result<json> parse_json(std::string_view text, JsonLimits limits) {
  if (text.size() > limits.max_bytes) {
    return moe::invalid(fmt::format("size: expected at most {} bytes, got {}", limits.max_bytes, text.size()));
  }
  Builder builder(limits);
  size_t n_read = 0;
  const bool good = json::sax_parse(CountingIterator{text.data(), &n_read},
                                    CountingIterator{text.data() + text.size(), &n_read}, &builder);
  if (!good) {
    const size_t at = builder.position_ ? *builder.position_ - (*builder.position_ > 0 ? 1 : 0) : n_read;
    return moe::invalid(fmt::format("{}: {}", place(text, at), builder.message_));
  }
  return std::move(builder.root);
}

moe::Result<std::string> read_file(const std::filesystem::path& path, size_t max_bytes) {
  std::error_code ec;
  if (!std::filesystem::is_regular_file(path, ec)) {
    const bool exists = std::filesystem::exists(path, ec);
    return moe::not_found(fmt::format("{}: expected a file, got {}", path.string(), exists ? "something else" : "nothing"));
  }
  const auto size = std::filesystem::file_size(path, ec);
  if (ec) return moe::not_found(fmt::format("{}: {}", path.string(), ec.message()));
  if (size > max_bytes) {
    return moe::invalid(fmt::format("{}: expected at most {} bytes, got {}", path.string(), max_bytes, size));
  }
  std::ifstream in(path, std::ios::binary);
  if (!in) return moe::not_found(fmt::format("{}: {}", path.string(), std::strerror(errno)));
  std::string text(size, '\0');
  in.read(text.data(), static_cast<std::streamsize>(size));
  if (static_cast<size_t>(in.gcount()) != size) return moe::data_loss(fmt::format("{}: could not be read whole", path.string()));
  return text;
}

moe::Result<json> parse_json_file(const std::filesystem::path& path, JsonLimits limits) {
  MOE_ASSIGN(const std::string bytes, read_file(path, limits.max_bytes));
  std::string_view text = bytes;
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  auto doc = parse_json(text, limits);
  if (!doc.ok()) return doc.error().in(path.string());
  return doc;
}

}  // namespace patchbay
