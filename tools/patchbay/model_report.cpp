#include "tools/patchbay/model_report.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

namespace patchbay {
namespace {

using nlohmann::json;

constexpr int64_t kCacheTokens = 1000;

// Parameters of one part: all of them, and those that one token uses.
struct PartSize {
  double parameters = 0;
  double active = 0;
  double stored_bytes = 0;
};

struct Sizes {
  std::array<PartSize, kWeightParts> parts;
  PartSize total;
};

double active_share(const ModelOutline& outline, const WeightNeed& need, double experts_a_token) {
  if (need.part != WeightPart::kExperts || static_cast<size_t>(need.layer) >= outline.layers.size()) return 1;
  const LayerInfo& layer = outline.layers[static_cast<size_t>(need.layer)];
  const double k = experts_a_token > 0 ? experts_a_token : static_cast<double>(layer.k);
  const auto groups = static_cast<double>(std::max<int64_t>(need.n_groups, 1));
  return std::min(k, groups) / groups;
}

Sizes sizes_of(const ModelOutline& outline, double experts_a_token = 0) {
  Sizes out;
  for (const WeightNeed& need : outline.weights) {
    for (PartSize* p : {&out.parts[static_cast<size_t>(need.part)], &out.total}) {
      p->parameters += need.n_elements();
      p->active += need.n_elements() * active_share(outline, need, experts_a_token);
      p->stored_bytes += need.stored_bytes;
    }
  }
  return out;
}

// Memory at a precision: matrices that follow it at so many bits, the others (embedding, router) as stored, vectors in
// f32.
struct PrecisionSize {
  const char* name;
  double bits;        // of a weight; 0: as stored
  int cache_divisor;  // of an f32 cache
  bool groups;        // rows are filled up to groups of 32
};
constexpr PrecisionSize kPrecisions[] = {{"as stored", 0, 1, false},   {"fp32", 32, 1, false},
                                         {"bf16, fp16", 16, 2, false}, {"int8", 8.5, 2, true},
                                         {"int4", 4.5, 2, true},       {"fp8", 8 + 32.0 / (128 * 128), 2, false}};

double weight_bytes(const ModelOutline& outline, const PrecisionSize& precision) {
  double sum = 0;
  for (const WeightNeed& need : outline.weights) {
    if (need.vector) {
      sum += 4 * need.n_elements();
    } else if (precision.bits == 0 || !need.follows_precision) {
      sum += need.stored_bytes;
    } else {
      const double row =
          precision.groups ? static_cast<double>((need.n_in + 31) / 32 * 32) : static_cast<double>(need.n_in);
      sum += static_cast<double>(need.n_groups) * static_cast<double>(need.n_out) * row * precision.bits / 8;
    }
  }
  return sum;
}

double cache_bytes(const ModelOutline& outline, const PrecisionSize& precision) {
  return static_cast<double>(kCacheTokens) *
         (static_cast<double>(outline.attention_cache_bytes) / precision.cache_divisor +
          static_cast<double>(outline.router_cache_bytes));
}

// "6.92 B", "13.8 GB": three figures.
std::string count(double n, const char* unit) {
  constexpr std::pair<double, const char*> kSteps[] = {{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "k"}};
  for (const auto& [size, letter] : kSteps) {
    if (n < size) continue;
    const double x = n / size;
    const std::string_view prefix = *unit != '\0' && *letter == 'B' ? "G" : letter;
    return fmt::format("{:.{}f} {}{}", x, x < 10 ? 2 : x < 100 ? 1 : 0, prefix, unit);
  }
  return fmt::format("{:.0f}{}{}", n, *unit != '\0' ? " " : "", unit);
}

std::string part_text(const PartSpec& part) {
  std::string out = part.plugin;
  for (const auto& o : part.options) out += fmt::format(" {}={}", o.key, to_text(o.value));
  return out;
}
json part_json(const PartSpec& part) {
  json options = json::object();
  for (const auto& o : part.options) options[o.key] = std::visit([](const auto& v) { return json(v); }, o.value);
  return {{"plugin", part.plugin}, {"options", options}};
}

std::string attention_text(const AttentionSpec& a) {
  if (a.kind == AttentionKind::kLatent) {
    return fmt::format(
        "latent: {} heads, ranks {} (queries) and {} (keys and values), {} + {} rotary dimensions a key, {} a value",
        a.n_heads, a.q_rank, a.kv_rank, a.nope_dim, a.rope_dim, a.v_dim);
  }
  return fmt::format("grouped-query: {} heads and {} of keys and values, {} dimensions, {} rotary", a.n_heads,
                     a.n_kv_heads, a.k_dim, a.rope.n_rot);
}
json attention_json(const AttentionSpec& a) {
  json out = {{"kind", a.kind == AttentionKind::kLatent ? "latent" : "grouped_query"},
              {"n_heads", a.n_heads},
              {"k_dim", a.k_dim},
              {"v_dim", a.v_dim}};
  if (a.kind == AttentionKind::kLatent) {
    out.update({{"q_rank", a.q_rank}, {"kv_rank", a.kv_rank}, {"nope_dim", a.nope_dim}, {"rope_dim", a.rope_dim}});
  } else {
    out["n_kv_heads"] = a.n_kv_heads;
  }
  if (a.window > 0) out["window"] = a.window;
  if (a.chunk > 0) out["chunk"] = a.chunk;
  return out;
}

std::string experts_text(const FeedForwardSpec& f) {
  std::string out = fmt::format("{} of width {}", f.n_experts, f.d_expert);
  if (f.n_zero_experts > 0) out += fmt::format(" and {} zero-compute", f.n_zero_experts);
  if (f.d_shared > 0) out += fmt::format(", shared {} wide", f.d_shared);
  return out + fmt::format("; {}", part_text(f.expert));
}

// "0", "3-47", "0-2, 5": for runs of layers that are alike.
std::string ranges_text(const std::vector<size_t>& layers) {
  std::vector<std::string> out;
  for (size_t i = 0; i < layers.size();) {
    size_t j = i;
    while (j + 1 < layers.size() && layers[j + 1] == layers[j] + 1) ++j;
    out.push_back(i == j ? std::to_string(layers[i]) : fmt::format("{}-{}", layers[i], layers[j]));
    i = j + 1;
  }
  return fmt::format("{}", fmt::join(out, ", "));
}

// Kinds of layers and which layers are of each.
template <typename Describe>
std::string by_layers(const ModelSpec& spec, const char* title, Describe describe) {
  std::vector<std::pair<std::string, std::vector<size_t>>> kinds;
  for (size_t l = 0; l < spec.layers.size(); ++l) {
    const std::string text = describe(spec.layers[l]);
    if (text.empty()) continue;
    const auto same = std::find_if(kinds.begin(), kinds.end(), [&](const auto& k) { return k.first == text; });
    if (same == kinds.end()) {
      kinds.push_back({text, {l}});
    } else {
      same->second.push_back(l);
    }
  }
  std::string out;
  for (const auto& [text, layers] : kinds) {
    out += fmt::format("{:<12} {}{}\n", title, text,
                       layers.size() == spec.layers.size()
                           ? ""
                           : fmt::format("  (layer{} {})", layers.size() == 1 ? "" : "s", ranges_text(layers)));
  }
  return out;
}

std::string spec_text(const ModelSpec& spec) {
  std::string out = fmt::format("{:<12} {}, {} layers, width {}, {} tokens in the vocabulary, context {}{}\n",
                                "architecture", spec.architecture, spec.layers.size(), spec.d_model, spec.n_vocab,
                                spec.context, spec.tied ? ", head tied to the embedding" : "");
  out += by_layers(spec, "attention", [](const LayerSpec& l) {
    const AttentionSpec& a = l.attention;
    return attention_text(a) + (a.window > 0 ? fmt::format(", window {}", a.window) : "") +
           (a.chunk > 0 ? fmt::format(", in chunks of {}", a.chunk) : "");
  });
  out += by_layers(spec, "router",
                   [](const LayerSpec& l) { return l.ffn.n_experts > 0 ? part_text(l.ffn.router) : std::string(); });
  out += by_layers(spec, "experts",
                   [](const LayerSpec& l) { return l.ffn.n_experts > 0 ? experts_text(l.ffn) : std::string(); });
  return out + by_layers(spec, "dense", [](const LayerSpec& l) {
           return l.ffn.n_experts > 0 ? std::string() : fmt::format("width {}", l.ffn.d_shared);
         });
}

std::string sizes_text(const ModelOutline& outline) {
  const Sizes sizes = sizes_of(outline);
  std::string out = fmt::format("{:<12} {} in all, {} for a token\n\n", "parameters", count(sizes.total.parameters, ""),
                                count(sizes.total.active, ""));
  out += fmt::format("{:<12} {:>10} {:>12} {:>8} {:>10}\n", "part", "parameters", "for a token", "share", "stored");
  for (size_t i = 0; i < kWeightParts; ++i) {
    const PartSize& p = sizes.parts[i];
    if (p.parameters == 0) continue;
    out += fmt::format("{:<12} {:>10} {:>12} {:>6.1f} % {:>10}\n", weight_part_name(static_cast<WeightPart>(i)),
                       count(p.parameters, ""), count(p.active, ""), 100 * p.parameters / sizes.total.parameters,
                       bytes_text(p.stored_bytes));
  }
  out += fmt::format("\n{:<12} {:>10} {:>24}\n", "precision", "weights", fmt::format("cache, {} tokens", kCacheTokens));
  for (const auto& p : kPrecisions) {
    out += fmt::format("{:<12} {:>10} {:>24}\n", p.name, bytes_text(weight_bytes(outline, p)),
                       bytes_text(cache_bytes(outline, p)));
  }
  return out;
}

// What a tensor that has no codec is, and what nobody asks for.
void judge_tensors(const Checkpoint& checkpoint, ModelReport& report) {
  report.file_bytes = checkpoint.file_bytes();
  report.n_tensors = checkpoint.tensors().size();
  for (const TensorInfo& t : checkpoint.tensors()) report.bytes_by_encoding[std::string(t.encoding)] += t.bytes;
}

void judge_text(const ModelFiles& files, ModelReport& report) {
  const auto tokenizer = files.tokenizer();
  if (!tokenizer.ok()) {
    report.problems.push_back(tokenizer.error().message);
    report.tokenizer = "cannot be read";
  } else {
    report.tokenizer = *tokenizer == nullptr ? "none: the model takes token ids only"
                                             : fmt::format("{} tokens", (*tokenizer)->vocab_size());
  }
  const auto chat = files.chat_format();
  if (!chat.ok()) {
    report.problems.push_back(chat.error().message);
    report.chat = "cannot be read";
  } else {
    report.chat = *chat == nullptr ? "none" : "yes";
  }
  const auto stops = files.stop_ids();
  if (stops.ok()) {
    report.stop_ids = *stops;
  } else {
    report.problems.push_back(stops.error().message);
  }
}

}  // namespace

std::string bytes_text(double n) { return count(n, "B"); }

moe::Result<ModelReport> inspect_model(const Settings& settings, std::shared_ptr<PluginRegistry> registry, Host& host) {
  MOE_ASSIGN(const auto files, ModelFiles::open(settings.model.path));
  ModelReport report;
  report.path = settings.model.path.string();
  report.format = files->format();
  const auto description = files->describe();
  const auto checkpoint = files->checkpoint();
  if (!description.ok() && !checkpoint.ok()) return description.error();
  if (description.ok()) report.names = description->names;
  if (!checkpoint.ok()) {
    report.problems.push_back(checkpoint.error().message);
  } else {
    judge_tensors(**checkpoint, report);
  }
  auto spec = read_model_spec(settings, *files);
  if (!spec.ok()) {
    report.problems.push_back(spec.error().message);
  } else {
    MOE_ASSIGN(ModelOutline outline, outline_model(settings, *spec, checkpoint.ok() ? checkpoint->get() : nullptr,
                                                   std::move(registry), host));
    report.problems.insert(report.problems.end(), outline.problems.begin(), outline.problems.end());
    if (!outline.unused.empty()) {
      constexpr size_t kShown = 5;
      const auto end = outline.unused.begin() + static_cast<std::ptrdiff_t>(std::min(kShown, outline.unused.size()));
      report.notes.push_back(fmt::format("{} tensors are not used: {}{}", outline.unused.size(),
                                         fmt::join(outline.unused.begin(), end, ", "),
                                         outline.unused.size() > kShown ? ", ..." : ""));
    }
    report.outline = std::move(outline);
  }
  judge_text(*files, report);
  return report;
}

ParameterCount count_parameters(const ModelOutline& outline, double experts_a_token) {
  const Sizes sizes = sizes_of(outline, experts_a_token);
  return {sizes.total.parameters, sizes.total.active};
}

std::string to_text(const ModelReport& report) {
  std::vector<std::string> encodings;
  for (const auto& [encoding, bytes] : report.bytes_by_encoding)
    encodings.push_back(fmt::format("{} {}", encoding, bytes_text(static_cast<double>(bytes))));
  std::string out =
      fmt::format("{:<12} {}\n{:<12} {}, {} in {} tensors ({})\n", "model", report.path, "format", report.format,
                  bytes_text(static_cast<double>(report.file_bytes)), report.n_tensors, fmt::join(encodings, ", "));
  if (report.outline) out += spec_text(report.outline->spec);
  out += fmt::format("{:<12} {}\n{:<12} {}\n", "tokenizer", report.tokenizer, "chat format", report.chat);
  if (report.outline) out += sizes_text(*report.outline);
  for (const auto& note : report.notes) out += fmt::format("\nnote: {}\n", note);
  constexpr size_t kMost = 10;
  out += report.problems.empty() ? "\nIt would run.\n" : "\nIt would not run:\n";
  for (size_t i = 0; i < std::min(kMost, report.problems.size()); ++i) out += fmt::format("  {}\n", report.problems[i]);
  if (report.problems.size() > kMost) out += fmt::format("  and {} more\n", report.problems.size() - kMost);
  return out;
}

json to_json(const ModelReport& report) {
  json out = {{"path", report.path},
              {"format", report.format},
              {"file_bytes", report.file_bytes},
              {"tensors", report.n_tensors},
              {"bytes_by_encoding", report.bytes_by_encoding},
              {"names", report.names},
              {"tokenizer", report.tokenizer},
              {"chat_format", report.chat},
              {"stop_ids", report.stop_ids},
              {"runs", report.problems.empty()},
              {"problems", report.problems},
              {"notes", report.notes}};
  if (!report.outline) return out;
  const ModelOutline& outline = *report.outline;
  const ModelSpec& spec = outline.spec;
  const Sizes sizes = sizes_of(outline);
  out["architecture"] = spec.architecture;
  out["d_model"] = spec.d_model;
  out["n_vocab"] = spec.n_vocab;
  out["context"] = spec.context;
  out["tied"] = spec.tied;
  out["parameters"] = {{"total", sizes.total.parameters}, {"active", sizes.total.active}};
  for (size_t i = 0; i < kWeightParts; ++i) {
    const PartSize& p = sizes.parts[i];
    if (p.parameters == 0) continue;
    out["parts"][weight_part_name(static_cast<WeightPart>(i))] = {
        {"parameters", p.parameters}, {"active", p.active}, {"stored_bytes", p.stored_bytes}};
  }
  for (const auto& p : kPrecisions) {
    out["memory"].push_back({{"precision", p.name},
                             {"weight_bytes", weight_bytes(outline, p)},
                             {"cache_bytes_per_1000_tokens", cache_bytes(outline, p)}});
  }
  for (const LayerSpec& l : spec.layers) {
    json layer = {
        {"attention", attention_json(l.attention)}, {"d_shared", l.ffn.d_shared}, {"expert", part_json(l.ffn.expert)}};
    if (l.ffn.n_experts > 0)
      layer.update({{"n_experts", l.ffn.n_experts}, {"d_expert", l.ffn.d_expert}, {"router", part_json(l.ffn.router)}});
    out["layers"].push_back(std::move(layer));
  }
  return out;
}

}  // namespace patchbay
