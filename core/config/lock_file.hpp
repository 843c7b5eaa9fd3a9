// The lock file of [plugins]: TOML, one [[library]] each.
#pragma once

#include <filesystem>
#include <string>

#include "core/plugin/lock.hpp"

namespace patchbay {

// Errors name file, line and column. A file that is missing is one, with the command that writes it.
moe::Result<PluginLock> read_lock_file(const std::filesystem::path& file);

// The same from text, for tests and fuzzing.
moe::Result<PluginLock> lock_from_text(std::string_view text, const std::filesystem::path& file);

// Paths below the file's folder are written relative to it. Written beside and renamed.
moe::Status write_lock_file(const std::filesystem::path& file, const std::vector<LockedLibrary>& libraries);

}  // namespace patchbay
