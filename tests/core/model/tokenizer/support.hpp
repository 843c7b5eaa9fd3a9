// What the tokenizer's tests share.
#pragma once

#include <gtest/gtest.h>
#include <zlib.h>

#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "core/model/json/json.hpp"
#include "core/model/tokenizer/tokenizer.hpp"

namespace patchbay::test {

inline std::filesystem::path source_dir() { return PATCHBAY_SOURCE_DIR; }
inline std::filesystem::path data_dir() { return source_dir() / "tests/data/tokenizers"; }

// A whole gzip file, unpacked; empty if it cannot be read.
inline std::string read_gzip(const std::filesystem::path& path) {
  std::string out;
  gzFile file = gzopen(path.c_str(), "rb");
  if (file == nullptr) return out;
  std::vector<char> part(1 << 16);
  int n = 0;
  while ((n = gzread(file, part.data(), static_cast<unsigned>(part.size()))) > 0)
    out.append(part.data(), static_cast<size_t>(n));
  gzclose(file);
  return n < 0 ? std::string() : out;
}

// The tokenizer of a gzip file in data_dir(); nullptr and a failed test if it does not load.
inline std::unique_ptr<Tokenizer> load_gzip(const std::string& name) {
  auto document = parse_json(read_gzip(data_dir() / name));
  if (!document.ok()) {
    ADD_FAILURE() << name << ": " << document.error().message;
    return nullptr;
  }
  auto made = Tokenizer::from_json(*document);
  if (!made.ok()) {
    ADD_FAILURE() << name << ": " << made.error().message;
    return nullptr;
  }
  return std::move(*made);
}

inline std::unique_ptr<Tokenizer> from_text(const std::string& text) {
  auto document = parse_json(text);
  if (!document.ok()) {
    ADD_FAILURE() << document.error().message;
    return nullptr;
  }
  auto made = Tokenizer::from_json(*document);
  if (!made.ok()) {
    ADD_FAILURE() << made.error().message;
    return nullptr;
  }
  return std::move(*made);
}

inline std::vector<int32_t> encode(const Tokenizer& t, std::string_view text, bool add_special = false) {
  auto ids = t.encode(text, add_special);
  if (!ids.ok()) {
    ADD_FAILURE() << ids.error().message;
    return {};
  }
  return std::move(*ids);
}

// Decoded one id at a time; fails where a push ends within a character.
inline std::string decode_in_steps(const Tokenizer& t, const std::vector<int32_t>& ids, bool skip_special) {
  StreamDecoder stream(t, skip_special);
  std::string out;
  for (const int32_t id : ids) {
    const std::string part = stream.push(id);
    nlohmann::json checked = part;
    EXPECT_NO_THROW(checked.dump()) << "push(" << id << ") gave half a character";  // dump() refuses what is not UTF-8
    out += part;
  }
  return out + stream.flush();
}

// A line of a *.lines.jsonl.gz: what Hugging Face's library gives.
struct Line {
  std::string text;
  std::vector<int32_t> ids;
  std::string decoded;
};

inline std::vector<Line> read_lines(const std::string& name) {
  std::istringstream in(read_gzip(data_dir() / name));
  std::vector<Line> lines;
  for (std::string row; std::getline(in, row);) {
    const auto j = nlohmann::json::parse(row);
    lines.push_back({j.at("text"), j.at("ids"), j.at("decoded")});
  }
  return lines;
}

}  // namespace patchbay::test
