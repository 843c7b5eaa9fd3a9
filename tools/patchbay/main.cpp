#include <csignal>
#include <cstdio>

#include "tools/patchbay/commands.hpp"
#include "tools/patchbay/version.hpp"

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a reader that goes away is an error of a write, not the end of the process
  CLI::App app{"Patchbay: a plugin microkernel runtime for mixture-of-experts language models"};
  app.name("patchbay");
  app.set_version_flag("--version", "patchbay " + patchbay::program_version());
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  patchbay::add_run(app);
  patchbay::add_serve(app);
  patchbay::add_client(app);
  patchbay::add_top(app);
  patchbay::add_keys(app);
  patchbay::add_eval(app);
  patchbay::add_bench(app);
  patchbay::add_experiment(app);
  patchbay::add_logits(app);
  patchbay::add_tokenize(app);
  patchbay::add_model(app);
  patchbay::add_plugins(app);
  patchbay::add_config(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::RuntimeError& e) {
    return e.get_exit_code();
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "patchbay: error: %s\n", e.what());
    return 1;
  }
  return 0;
}
