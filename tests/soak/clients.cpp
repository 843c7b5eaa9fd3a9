#include "tests/soak/clients.hpp"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "moe/sdk/client.hpp"
#include "tests/plugins/transports/http_client.hpp"

extern char** environ;

namespace patchbay::soak {
namespace {

using std::chrono::milliseconds;
using testing::HttpClient;

constexpr milliseconds kPatience{20000};

Report wrong(std::string what) { return {Outcome::kWrong, "", std::move(what)}; }

bool is_beginning(const std::string& text, const Question& q) { return q.text.compare(0, text.size(), text) == 0; }

// What an end means for a text that came so far. `left`: we cancelled.
Report judge(const std::string& text, const v1::End& end, const Question& q, bool left) {
  if (!is_beginning(text, q)) return wrong("the text is not that of the undisturbed run: " + text);
  const v1::Code code = end.error().code();
  switch (end.reason()) {
    case v1::FINISH_REASON_STOP:
    case v1::FINISH_REASON_LENGTH:
      if (text != q.text) return wrong("ended early: " + std::to_string(text.size()) + " bytes");
      return {Outcome::kWhole, "", ""};
    case v1::FINISH_REASON_CANCELLED:
      return left ? Report{Outcome::kPart, "", ""} : wrong("cancelled by nobody");
    default:
      if (code == v1::CODE_UNAVAILABLE && text.empty()) return {Outcome::kRefused, "", ""};
      if (code == v1::CODE_RESOURCE_EXHAUSTED) return {text.empty() ? Outcome::kRefused : Outcome::kPart, "", ""};
      return wrong("failed: " + end.error().message());
  }
}

// How a client over ZeroMQ behaves.
struct Manners {
  size_t cancel_after = SIZE_MAX;  // events
  size_t leave_after = SIZE_MAX;
  size_t stall_after = SIZE_MAX;
  milliseconds stall{0};
  uint64_t window = 0;
  bool through_faults = false;
};

Report over_zeromq(const Question& q, const Addresses& addresses, const Manners& manners) {
  moe::ClientOptions options;
  options.address = manners.through_faults ? addresses.faulty_zeromq : addresses.zeromq;
  options.patience = manners.through_faults ? milliseconds(3000) : kPatience;
  options.window = manners.window;
  if (!manners.through_faults) options.reconnect_for = milliseconds(0);
  auto client = moe::Client::connect(options);
  for (int i = 0; i < 5 && !client.ok() && manners.through_faults; ++i) client = moe::Client::connect(options);
  if (!client.ok()) return wrong(client.error().message);
  const auto number = (*client)->start(q.request);
  std::string text;
  bool left = false;
  const auto deadline = std::chrono::steady_clock::now() + kPatience * 3;
  for (size_t n = 0; std::chrono::steady_clock::now() < deadline;) {
    const auto message = (*client)->next(milliseconds(200));
    if (!message.ok()) return wrong(message.error().message);
    if (!message->has_value()) continue;
    text += (*message)->tokens().text();
    if ((*message)->has_end()) return judge(text, (*message)->end(), q, left);
    ++n;
    if (n >= manners.leave_after)
      return is_beginning(text, q) ? Report{Outcome::kPart, "", ""} : wrong("not the text: " + text);
    if (n >= manners.cancel_after && !std::exchange(left, true)) (*client)->cancel(*number);
    if (n == manners.stall_after) std::this_thread::sleep_for(manners.stall);
  }
  return wrong("no end within a minute");
}

std::string text_of(const std::vector<std::string>& events, std::string& finish) {
  std::string text;
  for (const std::string& e : events) {
    if (e == "[DONE]") continue;
    const auto parsed = nlohmann::json::parse(e, nullptr, false);
    if (parsed.contains("error")) finish = "error: " + parsed["error"].value("message", "");
    for (const auto& c : parsed.value("choices", nlohmann::json::array())) {
      text += c.value("text", "");
      if (c["finish_reason"].is_string()) finish = c["finish_reason"];
    }
  }
  return text;
}

Report over_http(const Question& q, const Addresses& addresses, bool stream, milliseconds stall) {
  HttpClient client(addresses.http, stall.count() > 0 ? 4096 : 0);
  client.patience = kPatience;
  nlohmann::json body = q.as_openai();
  body["stream"] = stream;
  if (!client.send(HttpClient::request("POST", "/v1/completions", body.dump()))) return wrong("the server closed");
  if (stall.count() > 0 && client.read_until("data: ")) std::this_thread::sleep_for(stall);
  const auto response = client.receive();
  if (response.status == 429 || response.status == 503) return {Outcome::kRefused, "", ""};
  if (response.status != 200) return wrong("status " + std::to_string(response.status) + " " + response.body);
  if (!stream) {
    const std::string text = response.json()["choices"][0].value("text", "");
    return text == q.text ? Report{Outcome::kWhole, "", ""} : wrong("not the text: " + text);
  }
  std::string finish;
  const std::string text = text_of(response.events(), finish);
  if (!is_beginning(text, q)) return wrong("not the text: " + text);
  if (finish.find("events held for it") != std::string::npos) return {Outcome::kPart, "", ""};
  if (text != q.text || finish.empty() || finish.rfind("error", 0) == 0) return wrong("ended early: " + finish);
  return {Outcome::kWhole, "", ""};
}

Report abandoned_http(const Question& q, const Addresses& addresses, milliseconds after) {
  HttpClient client(addresses.http);
  client.send(HttpClient::request("POST", "/v1/completions", q.as_openai().dump()));
  std::this_thread::sleep_for(after);
  return {Outcome::kPart, "", ""};
}

// `patchbay client` as a process of its own, which is killed.
Report killed(const Question& q, const Addresses& addresses, milliseconds after) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return wrong("no pipe");
  std::vector<std::string> arguments = {PATCHBAY_BINARY_DIR "/bin/patchbay",
                                        "client",
                                        "--server",
                                        addresses.zeromq,
                                        "--prompt",
                                        q.request.text(),
                                        "--max-tokens",
                                        std::to_string(q.request.max_tokens()),
                                        "--seed",
                                        std::to_string(q.request.seed()),
                                        "--temperature",
                                        std::to_string(q.request.sampling().at("temperature").number()),
                                        "--ignore-end",
                                        "--quiet"};
  std::vector<char*> argv;
  for (auto& a : arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  pid_t pid = 0;
  const int failed = posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  if (failed != 0) return wrong("no process");
  std::this_thread::sleep_for(after);
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  std::string text;
  char buffer[4096];
  for (ssize_t n = 0; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
  ::close(ends[0]);
  if (text.ends_with('\n') && !is_beginning(text, q)) text.pop_back();  // it had come to its end
  return is_beginning(text, q) ? Report{Outcome::kPart, "", ""} : wrong("not the text: " + text);
}

}  // namespace

Report run_one(const Question& q, const Addresses& addresses, std::mt19937& random) {
  const auto named = [](Report report, const char* behaviour) {
    report.behaviour = behaviour;
    return report;
  };
  const size_t some = random() % 40;
  const milliseconds pause(500 + random() % 1500);
  const uint32_t what = random() % 100;
  Manners m;
  m.window = random() % 3 == 0 ? 16 + random() % 64 : 0;
  if (what < 22) return named(over_zeromq(q, addresses, m), "zeromq");
  if (what < 40) return named(over_http(q, addresses, true, milliseconds(0)), "http stream");
  if (what < 48) return named(over_http(q, addresses, false, milliseconds(0)), "http whole");
  if (what < 60) {
    m.cancel_after = some;
    return named(over_zeromq(q, addresses, m), "zeromq cancel");
  }
  if (what < 68) {
    m.leave_after = some;
    return named(over_zeromq(q, addresses, m), "zeromq disconnect");
  }
  if (what < 76) return named(abandoned_http(q, addresses, milliseconds(some)), "http disconnect");
  if (what < 81) {
    m.stall_after = some;
    m.stall = pause;
    return named(over_zeromq(q, addresses, m), "zeromq stall");
  }
  if (what < 86) return named(over_http(q, addresses, true, pause), "http stall");
  if (what < 97 && !addresses.faulty_zeromq.empty()) {
    m.through_faults = true;
    return named(over_zeromq(q, addresses, m), "zeromq broken and resumed");
  }
  return named(killed(q, addresses, milliseconds(20 + some * 5)), "kill -9");
}

}  // namespace patchbay::soak
