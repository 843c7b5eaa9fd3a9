#include "core/plugin/manifest.hpp"

#include <fmt/format.h>

#include <charconv>

#include "moe/abi/plugin.h"

namespace patchbay {
namespace {

using moe::invalid;

// "1.4-1.6": major, least minor, minor as built.
moe::Status parse_abi(std::string_view text, Manifest& out) {
  uint32_t numbers[4] = {};
  constexpr char kBetween[] = {'.', '-', '.'};
  const char* at = text.data();
  const char* const end = at + text.size();
  bool good = true;
  for (int i = 0; i < 4 && good; ++i) {
    const auto r = std::from_chars(at, end, numbers[i]);
    good = r.ec == std::errc() && (i == 3 ? r.ptr == end : r.ptr != end && *r.ptr == kBetween[i]);
    at = r.ptr + (good && i < 3 ? 1 : 0);
  }
  if (!good || numbers[0] != numbers[2] || numbers[1] > numbers[3])
    return invalid(fmt::format("manifest: abi: expected a range such as \"1.0-1.2\", got \"{}\"", text));
  out.abi_major = numbers[0];
  out.abi_least_minor = numbers[1];
  out.abi_minor = numbers[3];
  return {};
}

}  // namespace

moe::Result<Manifest> parse_manifest(std::string_view text) {
  Manifest out;
  bool has_abi = false;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    const size_t colon = line.find(": ");
    if (colon == std::string_view::npos) continue;  // padding
    const std::string_view key = line.substr(0, colon);
    const std::string_view value = line.substr(colon + 2);
    if (key == "name") out.name = value;
    if (key == "version") out.version = value;
    if (key == "license") out.license = value;
    if (key == "author") out.author = value;
    if (key == "abi") {
      MOE_TRY(parse_abi(value, out));
      has_abi = true;
    }
    if (key == "component") {
      const size_t space = value.find(' ');
      if (space == std::string_view::npos)
        return invalid(fmt::format("manifest: component: expected a kind and a name, got \"{}\"", value));
      out.components.push_back({std::string(value.substr(0, space)), std::string(value.substr(space + 1))});
    }
  }
  if (!has_abi || out.name.empty() || out.version.empty() || out.license.empty() || out.author.empty())
    return invalid("manifest: expected name, version, license, author and abi, got fewer");
  return out;
}

moe::Result<Manifest> manifest_of(const ElfFile& file) {
  const auto notes = file.notes(MOE_NOTE_OWNER, MOE_NOTE_MANIFEST);
  if (notes.empty())
    return moe::not_found(fmt::format("manifest: expected a note of owner \"{}\", got none", MOE_NOTE_OWNER));
  if (notes.size() > 1) return invalid(fmt::format("manifest: expected one, got {}", notes.size()));
  return parse_manifest(notes.front());
}

moe::Result<Manifest> read_manifest(const std::filesystem::path& library) {
  MOE_ASSIGN(const ElfFile file, ElfFile::read(library));
  auto manifest = manifest_of(file);
  if (!manifest.ok()) return manifest.error().in(library.string());
  return manifest;
}

}  // namespace patchbay
