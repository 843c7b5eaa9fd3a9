// patchbay plugins new: a folder with a plugin that builds, passes its tests and runs, to be changed into the author's
// own.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <iterator>

#include "tools/patchbay/commands.hpp"
#include "tools/patchbay/session.hpp"

namespace patchbay {
namespace {

namespace fs = std::filesystem;

struct NewFlags {
  std::string kind;
  std::string name;
  std::string language = "cpp";
  std::string folder;
};

// Templates are folders <kind> (C++) and <kind>-<language>; their plugin is called my_<kind>, its class My<Kind>.
fs::path template_folder() { return share_dir().parent_path() / "moe-sdk/template"; }

std::vector<std::string> languages_of(const std::string& kind) {
  std::vector<std::string> found;
  for (const char* language : {"cpp", "c", "cuda"}) {
    const std::string folder = language == std::string("cpp") ? kind : kind + "-" + language;
    if (fs::is_directory(template_folder() / folder)) found.emplace_back(language);
  }
  return found;
}

std::string camel_case(const std::string& snake) {
  std::string out;
  bool up = true;
  for (const char c : snake) {
    if (c != '_') out += up ? static_cast<char>(std::toupper(static_cast<unsigned char>(c))) : c;
    up = c == '_';
  }
  return out;
}

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

std::string adapted(std::string text, const NewFlags& flags) {
  replace_all(text, "@QUICKSTART@", (share_dir() / "quickstart/model").string());
  replace_all(text, "my_" + flags.kind, flags.name);
  replace_all(text, "My" + camel_case(flags.kind), camel_case(flags.name));
  return text;
}

moe::Status check_flags(const NewFlags& flags) {
  const auto languages = languages_of(flags.kind);
  if (languages.empty()) {
    return moe::not_found(fmt::format("{}: expected the SDK's templates there, got none", template_folder().string()));
  }
  if (std::find(languages.begin(), languages.end(), flags.language) == languages.end()) {
    return moe::invalid(
        fmt::format("--lang: expected {} for a {}, got {}", fmt::join(languages, " or "), flags.kind, flags.language));
  }
  const auto legal = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'; };
  const bool good = !flags.name.empty() && flags.name.size() <= 64 && flags.name[0] >= 'a' && flags.name[0] <= 'z' &&
                    std::all_of(flags.name.begin(), flags.name.end(), legal);
  if (!good) {
    return moe::invalid(fmt::format("name: expected [a-z][a-z0-9_]*, at most 64 long, got \"{}\"", flags.name));
  }
  std::error_code ec;
  if (fs::exists(flags.folder, ec)) {
    return moe::Error{MOE_ALREADY_EXISTS,
                      fmt::format("{}: expected no such folder yet, got one that is there", flags.folder)};
  }
  return {};
}

moe::Result<std::vector<fs::path>> write_plugin(const NewFlags& flags) {
  const fs::path from = template_folder() / (flags.language == "cpp" ? flags.kind : flags.kind + "-" + flags.language);
  std::vector<fs::path> written;
  std::error_code ec;
  for (fs::recursive_directory_iterator it(from, ec), end; !ec && it != end; it.increment(ec)) {
    if (!it->is_regular_file()) continue;
    std::ifstream in(it->path(), std::ios::binary);
    const std::string text = adapted({std::istreambuf_iterator<char>(in), {}}, flags);
    const fs::path to = fs::path(flags.folder) / adapted(fs::relative(it->path(), from).string(), flags);
    fs::create_directories(to.parent_path(), ec);
    std::ofstream out(to, std::ios::binary);
    out << text;
    if (!in || !out.flush()) return moe::Error{MOE_UNAVAILABLE, fmt::format("{}: could not be written", to.string())};
    written.push_back(to);
  }
  if (ec) return moe::Error{MOE_UNAVAILABLE, fmt::format("{}: {}", from.string(), ec.message())};
  std::sort(written.begin(), written.end());
  return written;
}

}  // namespace

void add_plugins_new(CLI::App& plugins) {
  auto flags = std::make_shared<NewFlags>();
  CLI::App* command = plugins.add_subcommand("new", "Write a plugin of your own, to start from");
  std::vector<std::string> kinds;
  for (const auto& kind : kKinds) kinds.emplace_back(kind.word);
  command->add_option("kind", flags->kind, "router, expert, sampler, backend or transport")
      ->required()
      ->check(CLI::IsMember(kinds));
  command->add_option("name", flags->name, "as configurations will name it: [a-z][a-z0-9_]*")->required();
  command->add_option("--lang", flags->language, "cpp | c | cuda")->check(CLI::IsMember({"cpp", "c", "cuda"}));
  command->add_option("--dir", flags->folder, "folder to write; by default the name")->type_name("DIR");
  command->callback([flags] {
    if (flags->folder.empty()) flags->folder = flags->name;
    ok_or_fail(check_flags(*flags));
    for (const auto& file : value_or_fail(write_plugin(*flags))) fmt::print("{}\n", file.string());
    fmt::print("\nnext: {}\n", (fs::path(flags->folder) / "README.md").string());
  });
}

}  // namespace patchbay
