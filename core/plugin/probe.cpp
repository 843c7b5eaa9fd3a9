#include "core/plugin/probe.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstring>

#include "core/model/json/json.hpp"
#include "core/plugin/host.hpp"
#include "core/plugin/library.hpp"

extern char** environ;

namespace patchbay {
namespace {

using nlohmann::json;

LibrarySummary summarize(const Library& library) {
  LibrarySummary s;
  s.path = library.path();
  s.name = library.entry().name;
  s.version = library.entry().version;
  s.license = library.entry().license;
  s.author = library.entry().author;
  for (const auto& kind : kKinds) {
    for (const auto* c : library.components(kind.id)) s.components.push_back({kind.word, c->name, c->doc});
  }
  return s;
}

// Reads everything from the pipe until it closes or the time is up.
std::string read_until(int fd, std::chrono::steady_clock::time_point deadline, bool& timed_out) {
  std::string out;
  char buffer[4096];
  constexpr size_t kMost = size_t{1} << 20;
  while (out.size() < kMost) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    if (left <= 0) {
      timed_out = true;
      break;
    }
    pollfd p{fd, POLLIN, 0};
    const int ready = poll(&p, 1, static_cast<int>(left));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) continue;
    const ssize_t n = read(fd, buffer, sizeof(buffer));
    if (n <= 0) break;
    out.append(buffer, static_cast<size_t>(n));
  }
  return out;
}

std::string exit_text(int status) {
  if (WIFSIGNALED(status)) return fmt::format("crashed while it was loaded ({})", strsignal(WTERMSIG(status)));
  return fmt::format("ended the process while it was loaded (exit code {})", WEXITSTATUS(status));
}

}  // namespace

std::string to_json(const LibrarySummary& s) {
  json components = json::array();
  for (const auto& c : s.components) components.push_back({{"kind", c.kind}, {"name", c.name}, {"doc", c.doc}});
  const json doc = {{"path", s.path.string()}, {"name", s.name},           {"version", s.version}, {"license", s.license},
                    {"author", s.author},      {"components", components}, {"problem", s.problem}};
  return doc.dump(-1, ' ', true, json::error_handler_t::replace);
}

moe::Result<LibrarySummary> summary_from_json(std::string_view text) {
  MOE_ASSIGN(const json doc, parse_json(text));
  LibrarySummary s;
  const auto get = [](const json& o, const char* key) {
    return o.is_object() && o.contains(key) && o[key].is_string() ? o[key].get<std::string>() : std::string();
  };
  s.path = get(doc, "path");
  s.name = get(doc, "name");
  s.version = get(doc, "version");
  s.license = get(doc, "license");
  s.author = get(doc, "author");
  s.problem = get(doc, "problem");
  if (!doc.is_object() || !doc.contains("components") || !doc["components"].is_array()) {
    return moe::invalid("summary: expected components, got none");
  }
  for (const auto& c : doc["components"]) s.components.push_back({get(c, "kind"), get(c, "name"), get(c, "doc")});
  return s;
}

int run_probe(const std::filesystem::path& path) {
  Host host(1);
  LibrarySummary summary;
  summary.path = path;
  {
    auto library = Library::load(path, host.abi());
    if (library.ok()) {
      summary = summarize(**library);
    } else {
      summary.problem = library.error().message;
    }
  }  // unloads: a destructor that crashes is the child's crash
  std::printf("%s\n", to_json(summary).c_str());
  std::fflush(stdout);
  return summary.problem.empty() ? 0 : 1;
}

LibrarySummary probe(const std::filesystem::path& library, const std::filesystem::path& program, int timeout_ms) {
  LibrarySummary failed;
  failed.path = library;
  const auto fail = [&](std::string why) {
    failed.problem = fmt::format("{}: {}", library.string(), why);
    return failed;
  };
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return fail(fmt::format("could not be probed: {}", std::strerror(errno)));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, fds[1], 1);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  const std::string file = library.string();
  const std::string exe = program.string();
  char* argv[] = {const_cast<char*>(exe.c_str()), const_cast<char*>("plugins"), const_cast<char*>("probe"),
                  const_cast<char*>(file.c_str()), nullptr};
  pid_t pid = 0;
  const int spawned = posix_spawn(&pid, exe.c_str(), &actions, nullptr, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  close(fds[1]);
  if (spawned != 0) {
    close(fds[0]);
    return fail(fmt::format("could not be probed with {}: {}", exe, std::strerror(spawned)));
  }
  bool timed_out = false;
  const std::string text = read_until(fds[0], std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms), timed_out);
  close(fds[0]);
  if (timed_out) kill(pid, SIGKILL);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (timed_out) return fail(fmt::format("did not load within {} ms", timeout_ms));
  if (WIFSIGNALED(status)) return fail(exit_text(status));
  auto summary = summary_from_json(text);
  if (!summary.ok()) return fail(exit_text(status));
  return *summary;
}

}  // namespace patchbay
