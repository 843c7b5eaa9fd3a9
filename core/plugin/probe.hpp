// Looking into a library from a child process first, so that one that crashes, hangs or exits in its constructors cannot take the host
// down with it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "moe/abi/plugin.h"
#include "moe/sdk/result.hpp"

namespace patchbay {

struct ComponentSummary {
  std::string kind;  // "router", ...
  std::string name;
  std::string doc;
};

// What a library says of itself.
struct LibrarySummary {
  std::filesystem::path path;
  std::string name;
  std::string version;
  std::string license;
  std::string author;
  std::vector<ComponentSummary> components;
  std::string problem;  // not empty: refused, and why
};

// The child's side (`patchbay plugins probe FILE`): loads it and prints the summary as one line of JSON. Returns the exit code.
int run_probe(const std::filesystem::path& library);

// The parent's side: starts `program plugins probe LIBRARY` and waits at most timeout_ms. Whatever goes wrong becomes `problem`.
LibrarySummary probe(const std::filesystem::path& library, const std::filesystem::path& program, int timeout_ms);

// The summary as JSON text and back.
std::string to_json(const LibrarySummary& summary);
moe::Result<LibrarySummary> summary_from_json(std::string_view text);

}  // namespace patchbay
