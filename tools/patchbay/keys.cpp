// patchbay keys: pairs of CURVE keys for servers and clients of the zeromq transport.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "moe/sdk/curve_keys.hpp"
#include "tools/patchbay/commands.hpp"
#include "tools/patchbay/session.hpp"

namespace patchbay {
namespace {

struct KeysFlags {
  std::string name;
  std::string directory = ".";
  bool json = false;
};

// A new file: one that is there is somebody's key.
moe::Status write_new(const std::filesystem::path& path, mode_t mode, const std::string& text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  if (fd < 0) return moe::invalid(fmt::format("{}: expected a new file, got {}", path.string(), std::strerror(errno)));
  const ssize_t n = ::write(fd, text.data(), text.size());
  const bool written = ::close(fd) == 0 && n == static_cast<ssize_t>(text.size());
  if (!written) return moe::data_loss(fmt::format("{}: could not be written", path.string()));
  return {};
}

void new_keys(const KeysFlags& flags) {
  const bool is_plain = flags.name.find_first_of("/ \t\n") == std::string::npos && flags.name[0] != '.';
  if (!is_plain)
    fail(moe::invalid(fmt::format("name: expected one without blanks and slashes, got \"{}\"", flags.name)));
  char public_key[41];
  char secret_key[41];
  if (zmq_curve_keypair(public_key, secret_key) != 0) {
    fail(moe::unimplemented("keys: expected a libzmq with CURVE, got one without"));
  }
  const std::filesystem::path base = std::filesystem::path(flags.directory) / flags.name;
  const std::string pair = base.string() + ".key";
  const std::string open = base.string() + ".pub";
  ok_or_fail(
      write_new(pair, 0600, fmt::format("# Keep this to yourself.\npublic {}\nsecret {}\n", public_key, secret_key)));
  ok_or_fail(write_new(open, 0644, fmt::format("{} {}\n", public_key, flags.name)));
  if (flags.json) {
    fmt::print("{}\n", nlohmann::json{{"keys", pair}, {"public", open}, {"public_key", public_key}}.dump());
  } else {
    fmt::print("{} (keep it), {} (give it away)\n", pair, open);
  }
}

}  // namespace

void add_keys(CLI::App& app) {
  CLI::App* keys = app.add_subcommand("keys", "Keys that servers and clients know each other by");
  keys->require_subcommand(1);
  auto flags = std::make_shared<KeysFlags>();
  CLI::App* command = keys->add_subcommand("new", "Make a pair: NAME.key and NAME.pub");
  command->add_option("name", flags->name, "of the server or client")->type_name("NAME")->required();
  command->add_option("--dir", flags->directory, "where the files go")->type_name("DIR")->capture_default_str();
  command->add_flag("--json", flags->json, "machine-readable output");
  command->callback([flags] { new_keys(*flags); });
}

}  // namespace patchbay
