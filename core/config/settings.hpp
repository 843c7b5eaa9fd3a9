// The configuration: one TOML file plus `--set` overrides, checked and with every default filled in.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "core/config/toml_file.hpp"
#include "core/plugin/options.hpp"

namespace patchbay {

// A plugin and its options as the user wrote them; the plugin's own table checks them when it is loaded.
struct PluginChoice {
  std::string plugin;  // empty: as without this table
  std::vector<GivenOption> options;
  std::string where;

  // The same plugin with the same options, wherever they are written.
  bool operator==(const PluginChoice& o) const { return plugin == o.plugin && options == o.options; }
};

// Which choices an expert that is full loses: the later tokens', or those that weigh least.
enum class Overflow { kPosition, kWeight };

// [plan]: what the core does to the plan of any router. With either, a token's experts depend on the other tokens of its step.
struct PlanSettings {
  double capacity = 0;  // an expert takes ceil(capacity * k * tokens / experts) tokens a step; 0: all that come
  Overflow overflow = Overflow::kPosition;
  double balance = 0;  // how fast a bias on the gate follows the load, in logits a step; 0: there is none
  bool operator==(const PlanSettings&) const = default;
};

// [[layer]]: what differs in some layers.
struct LayerOverride {
  int64_t first = 0;  // of the model's layers, both included
  int64_t last = 0;
  std::optional<PluginChoice> router;
  std::optional<PluginChoice> expert;
  std::optional<PlanSettings> plan;
  std::string attention_backend;  // empty: the default backend
  std::string expert_backend;
  std::string where;

  bool operator==(const LayerOverride& o) const {
    return std::tie(first, last, router, expert, plan, attention_backend, expert_backend) ==
           std::tie(o.first, o.last, o.router, o.expert, o.plan, o.attention_backend, o.expert_backend);
  }
};

struct ModelSettings {
  std::filesystem::path path;         // a Hugging Face directory or a .gguf file
  std::string precision = "auto";     // of prepared weights: auto | fp32 | fp16 | bf16 | int8 | int4 | fp8
  int64_t context = 0;                // tokens a request may hold; 0: the model's own
  std::string architecture;           // a file or name instead of what the checkpoint asks for
  std::string packed_cache = "auto";  // see PackedCaches: auto | off | a folder
  bool operator==(const ModelSettings&) const = default;
};

struct EngineSettings {
  int64_t batch_size = 32;
  int64_t batch_tokens = 512;
  int64_t queue = 256;   // requests that may wait
  int64_t queue_ms = 0;  // how long one may be expected to wait for its first step; 0: any time
  int64_t cache_tokens = 0;
  int64_t page_tokens = 16;
  bool prefix_cache = true;  // requests that begin alike share pages of the cache
  std::string cache_dtype = "auto";
  int64_t threads = 0;     // 0: as many as this machine has cores for us
  int64_t max_tokens = 0;  // default and limit of a request's output; 0: the context
  bool operator==(const EngineSettings&) const = default;
};

struct LogSettings {
  std::string level = "info";   // debug | info | warning | error
  std::string format = "text";  // text | json: one object a line
  bool operator==(const LogSettings&) const = default;
};

struct Settings {
  ModelSettings model;
  std::vector<PluginChoice> backends;  // the first is the default
  std::optional<PluginChoice> router;  // none: what the checkpoint asks for
  std::optional<PluginChoice> expert;
  PlanSettings plan;
  std::vector<LayerOverride> layers;
  std::vector<PluginChoice> samplers;  // empty: the default chain
  std::vector<PluginChoice> transports;
  EngineSettings engine;
  LogSettings log;
  std::vector<std::filesystem::path> plugin_paths;        // besides the built-in folder, before it
  std::filesystem::path plugin_lock;                      // only libraries that are in there are loaded; empty: all
  std::vector<std::filesystem::path> architecture_paths;  // besides the built-in folder, before it
};

// Reads `file` (empty: none) and the overrides on top. Relative paths in the file are taken from the file's folder, in an override from the
// current folder. Errors: file, line, column, what was expected, what came, the nearest right name.
moe::Result<Settings> load_settings(const std::filesystem::path& file, const std::vector<std::string>& overrides);

// The same from a document that is parsed already. A path is relative to the folder of the file where it stood.
moe::Result<Settings> settings_from_node(const TomlNode& document);
// The same from text, for tests and fuzzing.
moe::Result<Settings> settings_from_text(std::string_view text, const std::string& source);

}  // namespace patchbay
