// Runs the real program, bin/patchbay of this build, as a user would: its arguments in, exit code and both outputs
// back.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

extern char** environ;

namespace patchbay::e2e {

// A folder of its own for one test, gone when the test is.
class ScratchDir {
 public:
  ScratchDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "patchbay-e2e-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) ADD_FAILURE() << pattern << ": could not be made";
    path_ = pattern;
  }
  ~ScratchDir() {
    std::error_code ec;
    std::filesystem::remove_all(path_, ec);
  }
  ScratchDir(const ScratchDir&) = delete;
  ScratchDir& operator=(const ScratchDir&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  if (!out.flush()) ADD_FAILURE() << path << ": could not be written";
}

struct ProgramResult {
  int exit_code = -1;  // 128 + signal where one ended it, as a shell says; -1: it did not end in time and was killed
  std::string out;
  std::string err;
};

// The program while it runs; killed if the test leaves it behind.
class RunningProgram {
 public:
  // `err`: where its standard error goes; empty: to a file that err() reads.
  explicit RunningProgram(std::vector<std::string> arguments, const std::string& err = "") {
    const std::string program = PATCHBAY_BINARY_DIR "/bin/patchbay";
    // Verdicts on plugins are kept in the build folder: a test neither reads nor writes the user's.
    setenv("XDG_CACHE_HOME", PATCHBAY_BINARY_DIR "/tests/e2e_cache", 1);
    arguments.insert(arguments.begin(), program);
    std::vector<char*> argv;
    for (auto& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, (dir_ / "out").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, err.empty() ? (dir_ / "err").c_str() : err.c_str(),
                                     O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int failed = posix_spawn(&pid_, program.c_str(), &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (failed != 0) {
      pid_ = 0;
      ADD_FAILURE() << program << ": could not be started";
    }
  }
  ~RunningProgram() {
    if (pid_ != 0) end_by_force();
  }
  RunningProgram(const RunningProgram&) = delete;
  RunningProgram& operator=(const RunningProgram&) = delete;

  void signal(int number) const { kill(pid_, number); }
  [[nodiscard]] pid_t pid() const { return pid_; }
  // What it has written by now.
  [[nodiscard]] std::string out() const { return read_text(dir_ / "out"); }
  [[nodiscard]] std::string err() const { return read_text(dir_ / "err"); }

  // Waits until it has ended, at most so long.
  ProgramResult wait(std::chrono::seconds limit = std::chrono::seconds(120)) {
    ProgramResult result;
    if (pid_ == 0) return result;
    const auto deadline = std::chrono::steady_clock::now() + limit;
    int status = 0;
    while (waitpid(pid_, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > deadline) {
        end_by_force();
        ADD_FAILURE() << "the program did not end within " << limit.count() << " s; stderr: " << err();
        return result;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    pid_ = 0;
    result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    result.out = out();
    result.err = err();
    return result;
  }

 private:
  void end_by_force() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

  ScratchDir dir_;
  pid_t pid_ = 0;
};

inline ProgramResult run_program(std::vector<std::string> arguments) {
  return RunningProgram(std::move(arguments)).wait();
}

// Exit code 1, nothing on stdout, and one line on stderr that says all of `parts`.
inline void expect_one_clear_error(const ProgramResult& result, const std::vector<std::string>& parts) {
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_EQ(result.err.rfind("patchbay: error: ", 0), 0U) << result.err;
  for (const auto& part : parts)
    EXPECT_NE(result.err.find(part), std::string::npos) << part << " is not in: " << result.err;
}

}  // namespace patchbay::e2e
