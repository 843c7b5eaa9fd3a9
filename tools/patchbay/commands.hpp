// The subcommands: each adds itself to the command line, and runs when it was chosen. A command that fails prints one line and throws
// CLI::RuntimeError with its exit code (1: failed at the job; 2: wrong use).
#pragma once

#include <CLI/CLI.hpp>

namespace patchbay {

void add_run(CLI::App& app);
void add_serve(CLI::App& app);
void add_client(CLI::App& app);
void add_top(CLI::App& app);
void add_keys(CLI::App& app);
void add_bench(CLI::App& app);
void add_eval(CLI::App& app);
void add_experiment(CLI::App& app);
void add_logits(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_model(CLI::App& app);
void add_plugins(CLI::App& app);
void add_plugins_new(CLI::App& plugins);
void add_plugins_check(CLI::App& plugins);
void add_plugins_lock(CLI::App& plugins);
void add_config(CLI::App& app);

}  // namespace patchbay
