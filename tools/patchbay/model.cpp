// patchbay model: looking at models, and making random ones.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>

#include "core/engine/random_model.hpp"
#include "tools/patchbay/commands.hpp"
#include "tools/patchbay/model_report.hpp"
#include "tools/patchbay/progress.hpp"
#include "tools/patchbay/session.hpp"
#include "tools/patchbay/shapes.hpp"

namespace patchbay {
namespace {

struct InspectFlags {
  std::string path;
  std::vector<std::string> sets;
  bool json = false;
};

void inspect(const InspectFlags& flags) {
  CommonFlags common;
  common.model = flags.path;
  common.sets = flags.sets;
  const Settings settings = value_or_fail(settings_of(common));
  const PluginSession session = value_or_fail(open_plugins(settings));
  const ModelReport report = value_or_fail(inspect_model(settings, session.registry, *session.host));
  if (flags.json) {
    fmt::print("{}\n", to_json(report).dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    fmt::print("{}", to_text(report));
  }
}

struct MakeFlags {
  std::string like;
  std::string out;
  std::string format = "safetensors";
  std::string type = "bf16";
  uint64_t seed = 0;
  bool quiet = false;
  bool json = false;
};

void make_random(const MakeFlags& flags) {
  watch_signals();
  const Settings settings = value_or_fail(settings_of(CommonFlags{}));
  const PluginSession session = value_or_fail(open_plugins(settings));
  const ModelShape shape = value_or_fail(load_shape(flags.like, shape_folders()));
  RandomModelOptions options;
  options.type = flags.type;
  options.seed = flags.seed;
  options.gguf = flags.format == "gguf";
  const ModelOutline outline =
      value_or_fail(outline_of_shape(settings, shape, options.gguf ? "gguf" : "", session.registry, *session.host));
  uint64_t n_bytes = 0;
  {
    ProgressBar bar("writing", !flags.quiet && !flags.json);
    ok_or_fail(write_random_model(flags.out, shape, outline, options, [&](uint64_t done, uint64_t total) {
      bar.show(done, total);
      n_bytes = total;
      return !interrupted();
    }));
  }
  if (flags.json) {
    fmt::print(
        "{}\n",
        nlohmann::json{{"out", flags.out}, {"bytes", n_bytes}, {"format", flags.format}, {"type", flags.type}}.dump());
  } else if (!flags.quiet) {
    fmt::print("{}: {} of random {} in the shape of {}\n", flags.out, bytes_text(static_cast<double>(n_bytes)),
               flags.type, shape.name);
  }
}

}  // namespace

void add_model(CLI::App& app) {
  CLI::App* model = app.add_subcommand("model", "Look at a model, or make a random one");
  model->require_subcommand(1);
  auto inspect_flags = std::make_shared<InspectFlags>();
  CLI::App* look =
      model->add_subcommand("inspect", "What a model is, what memory it takes, and what would keep it from running");
  look->add_option("path", inspect_flags->path, "directory or .gguf file")->required()->type_name("PATH");
  look->add_option("--set", inspect_flags->sets, "override one setting, as TOML")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  look->add_flag("--json", inspect_flags->json, "machine-readable output");
  look->callback([inspect_flags] { inspect(*inspect_flags); });

  auto make_flags = std::make_shared<MakeFlags>();
  CLI::App* make = model->add_subcommand("make-random", "Write a model of a known shape with random weights");
  make->add_option("--like", make_flags->like,
                   fmt::format("{}, or a path to a config.json", fmt::join(shape_names(shape_folders()), " | ")))
      ->required()
      ->type_name("NAME");
  make->add_option("--out", make_flags->out, "directory (safetensors) or file (gguf) to write")
      ->required()
      ->type_name("PATH");
  make->add_option("--format", make_flags->format, "safetensors | gguf")
      ->check(CLI::IsMember({"safetensors", "gguf"}))
      ->type_name("NAME");
  make->add_option(
          "--type", make_flags->type,
          "encoding of matrices: f32 | f16 | bf16 | mxfp4, in gguf also q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k")
      ->type_name("NAME");
  make->add_option("--seed", make_flags->seed, "the same seed gives the same bytes")->type_name("N");
  make->add_flag("--quiet", make_flags->quiet, "no progress");
  make->add_flag("--json", make_flags->json, "machine-readable output");
  make->callback([make_flags] { make_random(*make_flags); });
}

}  // namespace patchbay
