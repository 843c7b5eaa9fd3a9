// Who may know whom, by what is included: abi < sdk < core, plugins know the SDK only, nobody below knows the tools.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

struct Include {
  fs::path file;
  std::string target;
  bool quoted;
};

// The includes of all C and C++ files below a folder of the source tree.
std::vector<Include> includes_below(const std::string& folder) {
  std::vector<Include> all;
  for (const auto& entry : fs::recursive_directory_iterator(fs::path(PATCHBAY_SOURCE_DIR) / folder)) {
    const std::string extension = entry.path().extension();
    const std::vector<std::string> kExtensions = {".h", ".hpp", ".c", ".cpp", ".cu", ".cuh", ".inc"};
    if (std::find(kExtensions.begin(), kExtensions.end(), extension) == kExtensions.end()) continue;
    std::ifstream in(entry.path());
    for (std::string line; std::getline(in, line);) {
      const size_t hash = line.find_first_not_of(" \t");
      if (hash == std::string::npos || line[hash] != '#' || line.find("include", hash) == std::string::npos) continue;
      const size_t open = line.find_first_of("\"<", hash);
      if (open == std::string::npos) continue;
      const size_t close = line.find_first_of("\">", open + 1);
      all.push_back({entry.path(), line.substr(open + 1, close - open - 1), line[open] == '"'});
    }
  }
  return all;
}

// Files that include something of the named folders of the source tree, by their path from its root or by going up to
// it.
std::string including(const std::string& folder, const std::vector<std::string>& forbidden) {
  std::string found;
  for (const auto& [file, target, quoted] : includes_below(folder)) {
    const fs::path beside = fs::weakly_canonical(file.parent_path() / target);
    const fs::path from_beside = fs::relative(beside, fs::weakly_canonical(PATCHBAY_SOURCE_DIR));
    for (const std::string& name : forbidden) {
      const bool by_root = target.starts_with(name + "/");
      const bool by_climbing = quoted && from_beside.string().starts_with(name + "/");
      if (by_root || by_climbing) found += file.string() + " includes " + target + "\n";
    }
  }
  return found;
}

TEST(Includes, the_scan_sees_includes) {
  const auto all = includes_below("sdk");
  EXPECT_GT(all.size(), 50U);
  EXPECT_NE(including("core", {"moe/sdk"}), "");
}

TEST(Includes, a_plugin_knows_neither_core_nor_tools_nor_tests) {
  EXPECT_EQ(including("plugins", {"core", "tools", "tests"}), "");
}

TEST(Includes, a_plugin_knows_no_other_plugin) {
  std::string found;
  for (const auto& kind : fs::directory_iterator(fs::path(PATCHBAY_SOURCE_DIR) / "plugins")) {
    if (!kind.is_directory()) continue;
    for (const auto& plugin : fs::directory_iterator(kind.path())) {
      if (!plugin.is_directory()) continue;
      const std::string own = fs::relative(plugin.path(), PATCHBAY_SOURCE_DIR).string();
      for (const auto& [file, target, quoted] : includes_below(own)) {
        const std::string beside =
            fs::relative(fs::weakly_canonical(file.parent_path() / target), PATCHBAY_SOURCE_DIR).string();
        const bool other = target.starts_with("plugins/") ||
                           (quoted && beside.starts_with("plugins/") && !beside.starts_with(own + "/"));
        if (other) found += file.string() + " includes " + target + "\n";
      }
    }
  }
  EXPECT_EQ(found, "");
}

TEST(Includes, the_sdk_knows_nothing_above_it) {
  EXPECT_EQ(including("sdk", {"core", "plugins", "tools", "tests"}), "");
}

TEST(Includes, the_abi_knows_only_itself_and_the_c_library) {
  std::string found;
  for (const auto& [file, target, quoted] : includes_below("sdk/include/moe/abi")) {
    const bool own = quoted && target.find('/') == std::string::npos;
    const bool standard = !quoted && (target == "stdint.h" || target == "stddef.h");
    if (!own && !standard) found += file.string() + " includes " + target + "\n";
  }
  EXPECT_EQ(found, "");
}

TEST(Includes, the_core_knows_neither_plugins_nor_tools) {
  EXPECT_EQ(including("core", {"plugins", "tools", "tests"}), "");
}

}  // namespace
