#include "core/config/lock_file.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "core/config/table_reader.hpp"

namespace patchbay {
namespace {

namespace fs = std::filesystem;

moe::Result<PluginLock> read_lock(const TomlNode& document, const fs::path& file) {
  TableReader reader(document, "");
  std::vector<LockedLibrary> libraries;
  for (const TomlNode* node : reader.tables("library")) {
    TableReader table(*node, "library");
    LockedLibrary l;
    l.path = table.text("path");
    l.sha256 = table.text("sha256");
    l.name = table.text("name");
    l.version = table.text("version");
    MOE_TRY(table.finish());
    const bool hex = l.sha256.size() == 64 && l.sha256.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (!hex)
      return moe::invalid(
          fmt::format("{}: library.sha256: expected 64 hexadecimal digits, got \"{}\"", node->where(), l.sha256));
    if (l.path.is_relative()) l.path = file.parent_path() / l.path;
    l.path = l.path.lexically_normal();
    libraries.push_back(std::move(l));
  }
  MOE_TRY(reader.finish());
  return PluginLock(file, std::move(libraries));
}

// A TOML string: quoted, with what TOML wants escaped.
std::string toml_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    } else {
      out += c;
    }
  }
  return out + "\"";
}

}  // namespace

moe::Result<PluginLock> lock_from_text(std::string_view text, const fs::path& file) {
  MOE_ASSIGN(const TomlNode document, parse_toml(text, file.string()));
  return read_lock(document, file);
}

moe::Result<PluginLock> read_lock_file(const fs::path& file) {
  std::error_code ec;
  if (!fs::exists(file, ec)) {
    return moe::not_found(
        fmt::format("{}: expected the lock file that plugins.lock names, got none (`patchbay plugins lock` writes it)",
                    file.string()));
  }
  MOE_ASSIGN(const TomlNode document, parse_toml_file(file));
  return read_lock(document, file);
}

moe::Status write_lock_file(const fs::path& file, const std::vector<LockedLibrary>& libraries) {
  std::string text =
      "# Written by `patchbay plugins lock`: the plugin libraries that may be loaded, by what is in them.\n";
  const fs::path folder = file.parent_path();
  for (const auto& l : libraries) {
    const fs::path relative = l.path.lexically_relative(folder);
    const bool below = !relative.empty() && *relative.begin() != "..";
    text += fmt::format("\n[[library]]\npath = {}\nsha256 = \"{}\"\nname = {}\nversion = {}\n",
                        toml_string((below ? relative : l.path).string()), l.sha256, toml_string(l.name),
                        toml_string(l.version));
  }
  const fs::path temporary = file.string() + fmt::format(".{}", getpid());
  {
    std::ofstream out(temporary, std::ios::binary);
    out << text;
    if (!out.flush()) return moe::Error{MOE_UNAVAILABLE, fmt::format("{}: could not be written", temporary.string())};
  }
  std::error_code ec;
  fs::rename(temporary, file, ec);
  if (ec) return moe::Error{MOE_UNAVAILABLE, fmt::format("{}: {}", file.string(), ec.message())};
  return {};
}

}  // namespace patchbay
