// A strict pull scanner for the large, flat JSON of checkpoints: headers of 10^6 tensors at no memory but what the
// caller keeps. (Files of a few kilobytes go through core/model/json, which builds a document.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <string>
#include <string_view>

namespace patchbay {

// Every call that returns bool returns false on an error, which error() then words "byte N: expected X, got Y"; the
// first one stands. Strings are checked as UTF-8 (without surrogates), and stay views of the text unless they hold
// escapes.
class JsonScanner {
 public:
  // `text` and `arena` (for strings with escapes) outlive what is scanned from them.
  JsonScanner(std::string_view text, std::pmr::memory_resource* arena) : text_(text), arena_(arena) {}

  [[nodiscard]] size_t offset() const { return at_; }
  [[nodiscard]] const std::string& error() const { return error_; }

  // Skips white space and takes `c` if it is next. No error if it is not.
  bool take(char c);
  // The same, but anything else is an error.
  bool expect(char c);
  bool string(std::string_view* out);
  // Digits only: a sign, a fraction or an exponent is an error, and so is a value of 2^64 or more.
  bool unsigned_integer(uint64_t* out);
  // Skips any one value, at most 64 levels deep. Keys given twice in it are not noticed.
  bool skip_value();
  // Only white space is left.
  bool end();

  // An object: calls member(key), which scans the value and returns whether to go on.
  template <typename Member>
  bool object(Member&& member) {
    if (!expect('{')) return false;
    if (take('}')) return true;
    do {
      std::string_view key;
      if (!string(&key) || !expect(':') || !member(key)) return false;
    } while (take(','));
    return close('}');
  }

  // An array: calls element(), which scans one value and returns whether to go on.
  template <typename Element>
  bool array(Element&& element) {
    if (!expect('[')) return false;
    if (take(']')) return true;
    do {
      if (!element()) return false;
    } while (take(','));
    return close(']');
  }

 private:
  void skip_space();
  bool close(char c);
  bool fail(std::string_view expected);
  bool escape(std::string* out);
  bool hex4(uint32_t* out);
  bool character();
  bool string_with_escapes(size_t begin, std::string_view* out);
  bool number();
  bool literal(std::string_view word);

  std::string_view text_;
  std::pmr::memory_resource* arena_;
  size_t at_ = 0;
  std::string error_;
};

}  // namespace patchbay
