// patchbay client: a prompt to a server, its text back; or a question about the server.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <charconv>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "tools/patchbay/commands.hpp"
#include "tools/patchbay/server_connection.hpp"
#include "tools/patchbay/session.hpp"

namespace patchbay {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kTick{100};  // how soon Ctrl-C is noticed, at the latest
constexpr uint64_t kRequest = 1;    // a command sends one
constexpr uint64_t kProbe = 2;

struct ClientFlags {
  std::string server = "tcp://127.0.0.1:5757";
  std::string prompt;
  std::string chat;
  std::string system;
  std::vector<std::string> parameters;
  std::vector<std::string> stop;
  int64_t max_tokens = 0;
  double temperature = 0;
  bool has_temperature = false;
  uint64_t seed = 0;
  int32_t priority = 0;
  int64_t deadline_ms = 0;
  bool ignore_end = false;
  double timeout_s = 5;
  bool health = false;
  bool info = false;
  bool metrics = false;
  bool drain = false;
  bool json = false;
  bool quiet = false;
  [[nodiscard]] milliseconds timeout() const { return milliseconds(static_cast<int64_t>(timeout_s * 1000)); }
};

template <typename T>
bool read_number(const std::string& text, T& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size();
}

// true, false, a whole number, a number, or else text.
v1::Value value_of(const std::string& text) {
  v1::Value value;
  int64_t integer = 0;
  double number = 0;
  if (text == "true" || text == "false") {
    value.set_boolean(text == "true");
  } else if (read_number(text, integer)) {
    value.set_integer(integer);
  } else if (read_number(text, number)) {
    value.set_number(number);
  } else {
    value.set_text(text);
  }
  return value;
}

moe::Status set_prompt(const ClientFlags& flags, v1::Generate* out) {
  if (!flags.chat.empty()) {
    for (const auto& [role, text] : {std::pair("system", &flags.system), std::pair("user", &flags.chat)}) {
      if (text->empty()) continue;
      v1::ChatMessage* message = out->mutable_chat()->add_messages();
      message->set_role(role);
      message->set_content(*text);
    }
  } else if (!flags.prompt.empty()) {
    out->set_text(flags.prompt);
  } else {
    if (isatty(0) == 1)
      return moe::invalid("prompt: expected --chat TEXT, --prompt TEXT or text on standard input, got none");
    out->set_text(std::string(std::istreambuf_iterator<char>(std::cin), {}));
  }
  return {};
}

moe::Result<v1::ClientMessage> request_of(const ClientFlags& flags) {
  v1::ClientMessage message;
  message.set_request(kRequest);
  v1::Generate* g = message.mutable_generate();
  MOE_TRY(set_prompt(flags, g));
  g->set_max_tokens(flags.max_tokens);
  g->set_seed(flags.seed);
  g->set_priority(flags.priority);
  g->set_deadline_ms(flags.deadline_ms);
  g->set_ignore_end(flags.ignore_end);
  for (const std::string& s : flags.stop) g->add_stop(s);
  if (flags.has_temperature) (*g->mutable_sampling())["temperature"].set_number(flags.temperature);
  for (const std::string& text : flags.parameters) {
    const size_t equals = text.find('=');
    if (equals == 0 || equals == std::string::npos) {
      return moe::invalid(fmt::format("--param: expected name=value, got {}", text));
    }
    (*g->mutable_sampling())[text.substr(0, equals)] = value_of(text.substr(equals + 1));
  }
  return message;
}

// The answer to one question.
v1::ServerMessage ask(const ClientFlags& flags, const v1::ClientMessage& question) {
  const auto server = value_or_fail(ServerConnection::open(flags.server, flags.timeout()));
  server->send(question);
  const auto answer = value_or_fail(server->receive(flags.timeout()));
  if (!answer) fail({MOE_UNAVAILABLE, fmt::format("server: expected an answer from {}, got none", flags.server)});
  if (answer->has_error()) fail({static_cast<moe_status>(answer->error().code()), answer->error().message()});
  return *answer;
}

// One stream from the request to its end. Ctrl-C cancels it. A server that is silent is asked whether it lives.
class Stream {
 public:
  Stream(const ClientFlags& flags, ServerConnection& server) : flags_(flags), server_(server) {}

  moe::Result<v1::End> run(const v1::ClientMessage& request) {
    server_.send(request);
    auto last_heard = Clock::now();
    auto probed = false;
    while (true) {
      cancel_if_interrupted();
      if (cancelled_ && Clock::now() - cancelled_at_ > flags_.timeout()) {
        return moe::Error{MOE_UNAVAILABLE, "server: expected it to end the cancelled request, got nothing"};
      }
      MOE_ASSIGN(const auto message, server_.receive(kTick));
      if (message) {
        last_heard = Clock::now();
        probed = false;
        MOE_TRY(take(*message));
        if (end_) return *end_;
      } else if (Clock::now() - last_heard > flags_.timeout()) {
        if (probed)
          return moe::Error{MOE_UNAVAILABLE,
                            fmt::format("server: expected a sign of life from {}, got none", flags_.server)};
        probe();
        probed = true;
        last_heard = Clock::now();
      }
    }
  }
  [[nodiscard]] const std::string& text() const { return text_; }
  [[nodiscard]] const std::vector<int32_t>& ids() const { return ids_; }

 private:
  using Clock = std::chrono::steady_clock;

  void cancel_if_interrupted() {
    if (cancelled_ || !interrupted()) return;
    cancelled_ = true;
    cancelled_at_ = Clock::now();
    v1::ClientMessage message;
    message.set_request(kRequest);
    message.mutable_cancel();
    server_.send(message);
  }
  void probe() {
    v1::ClientMessage message;
    message.set_request(kProbe);
    message.mutable_health();
    server_.send(message);
  }
  moe::Status take(const v1::ServerMessage& message) {
    if (message.has_error())
      return moe::Error{static_cast<moe_status>(message.error().code()), message.error().message()};
    if (message.request() != kRequest) return {};
    if (message.sequence() != ++sequence_) {
      return moe::data_loss(fmt::format("stream: expected event {}, got {}", sequence_, message.sequence()));
    }
    if (message.has_end()) end_ = message.end();
    if (!message.has_tokens()) return {};
    const v1::Tokens& tokens = message.tokens();
    text_ += tokens.text();
    ids_.insert(ids_.end(), tokens.ids().begin(), tokens.ids().end());
    if (!flags_.json) {
      std::fwrite(tokens.text().data(), 1, tokens.text().size(), stdout);
      std::fflush(stdout);
    }
    return {};
  }

  const ClientFlags& flags_;
  ServerConnection& server_;
  std::string text_;
  std::vector<int32_t> ids_;
  uint64_t sequence_ = 0;
  bool cancelled_ = false;
  Clock::time_point cancelled_at_;
  std::optional<v1::End> end_;
};

const char* reason_name(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_CANCELLED:
      return "cancelled";
    default:
      return "failed";
  }
}

std::string dump(const nlohmann::json& document) {
  return document.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void print_end(const ClientFlags& flags, const Stream& stream, const v1::End& end) {
  const auto& u = end.usage();
  const auto& t = end.timings();
  if (flags.json) {
    fmt::print("{}\n", dump({{"text", stream.text()},
                             {"ids", stream.ids()},
                             {"finish_reason", reason_name(end.reason())},
                             {"stop", end.stop()},
                             {"prompt_tokens", u.n_prompt()},
                             {"generated_tokens", u.n_generated()},
                             {"queue_seconds", t.queue_s()},
                             {"prefill_seconds", t.prefill_s()},
                             {"decode_seconds", t.decode_s()}}));
    return;
  }
  fmt::print("\n");
  if (flags.quiet) return;
  fmt::print(stderr, "\n{} + {} tokens, first after {:.0f} ms", u.n_prompt(), u.n_generated(),
             (t.queue_s() + t.prefill_s()) * 1e3);
  if (u.n_generated() > 1 && t.decode_s() > 0) {
    fmt::print(stderr, "; {:.0f} tokens/s", static_cast<double>(u.n_generated() - 1) / t.decode_s());
  }
  fmt::print(stderr, "{}\n", end.reason() == v1::FINISH_REASON_CANCELLED ? "; cancelled" : "");
}

void generate(const ClientFlags& flags) {
  watch_signals();
  const v1::ClientMessage request = value_or_fail(request_of(flags));
  const auto server = value_or_fail(ServerConnection::open(flags.server, flags.timeout()));
  Stream stream(flags, *server);
  const v1::End end = value_or_fail(stream.run(request));
  if (end.reason() == v1::FINISH_REASON_FAILED) {
    if (!flags.json && !stream.text().empty()) fmt::print("\n");
    fail({static_cast<moe_status>(end.error().code()), end.error().message()});
  }
  print_end(flags, stream, end);
}

void show_health(const ClientFlags& flags) {
  v1::ClientMessage question;
  question.mutable_health();
  const v1::Health health = ask(flags, question).health();
  const char* state = health.state() == v1::Health::STATE_SERVING    ? "serving"
                      : health.state() == v1::Health::STATE_DRAINING ? "draining"
                                                                     : "stalled";
  if (flags.json) {
    fmt::print("{}\n", dump({{"state", state},
                             {"running", health.n_running()},
                             {"waiting", health.n_waiting()},
                             {"seconds_since_progress", health.seconds_since_progress()}}));
  } else {
    fmt::print("{}: {} running, {} waiting\n", state, health.n_running(), health.n_waiting());
  }
  if (health.state() == v1::Health::STATE_STALLED) throw CLI::RuntimeError(1);
}

void print_info(const v1::Info& info) {
  fmt::print("{}\nmodel {} ({}), context {}, vocabulary {}{}{}\n", info.server(), info.model(), info.architecture(),
             info.context(), info.n_vocab(), info.has_text() ? "" : ", no text", info.has_chat() ? "" : ", no chat");
  for (const v1::Layer& l : info.layers()) {
    if (l.n_experts() == 0) {
      fmt::print("layer {:3}  dense on {}\n", l.index(), l.backend());
    } else {
      fmt::print("layer {:3}  {}: {} of {} {} experts on {}\n", l.index(), l.router(), l.top_k(), l.n_experts(),
                 l.expert(), l.backend());
    }
  }
  for (const v1::Plugin& p : info.plugins()) fmt::print("{} {} {}\n", p.kind(), p.name(), p.version());
  fmt::print("sampling parameters: {}\n", fmt::join(info.sampling(), ", "));
}

void show_info(const ClientFlags& flags) {
  v1::ClientMessage question;
  question.mutable_info();
  const v1::Info info = ask(flags, question).info();
  if (!flags.json) return print_info(info);
  nlohmann::json layers = nlohmann::json::array();
  for (const v1::Layer& l : info.layers()) {
    layers.push_back({{"index", l.index()},
                      {"backend", l.backend()},
                      {"router", l.router()},
                      {"expert", l.expert()},
                      {"experts", l.n_experts()},
                      {"top_k", l.top_k()}});
  }
  nlohmann::json plugins = nlohmann::json::array();
  for (const v1::Plugin& p : info.plugins())
    plugins.push_back({{"kind", p.kind()}, {"name", p.name()}, {"version", p.version()}});
  fmt::print("{}\n", dump({{"server", info.server()},
                           {"model", info.model()},
                           {"architecture", info.architecture()},
                           {"context", info.context()},
                           {"vocabulary", info.n_vocab()},
                           {"has_text", info.has_text()},
                           {"has_chat", info.has_chat()},
                           {"sampling", std::vector<std::string>(info.sampling().begin(), info.sampling().end())},
                           {"layers", layers},
                           {"plugins", plugins}}));
}

void show_metrics(const ClientFlags& flags) {
  v1::ClientMessage question;
  question.mutable_metrics();
  const v1::Metrics metrics = ask(flags, question).metrics();
  nlohmann::json values = nlohmann::json::object();
  for (const v1::Metric& m : metrics.metrics()) {
    values[m.name()] = m.value();
    if (!flags.json) fmt::print("{} {}\n", m.name(), m.value());
  }
  if (flags.json) fmt::print("{}\n", dump(values));
}

void run_client(const ClientFlags& flags) {
  if (flags.health) return show_health(flags);
  if (flags.info) return show_info(flags);
  if (flags.metrics) return show_metrics(flags);
  if (!flags.drain) return generate(flags);
  v1::ClientMessage question;
  question.mutable_control()->mutable_drain();
  ask(flags, question);
  fmt::print("{}\n", flags.json ? R"({"state":"draining"})" : "draining");
}

}  // namespace

void add_client(CLI::App& app) {
  auto flags = std::make_shared<ClientFlags>();
  CLI::App* command =
      app.add_subcommand("client", "Send a prompt to a server and stream its text, or ask about the server");
  command->add_option("--server", flags->server, "its address")->type_name("ADDRESS")->capture_default_str();
  auto* chat =
      command->add_option("--chat", flags->chat, "a user's message, in the model's own chat format")->type_name("TEXT");
  command->add_option("--system", flags->system, "a system message before it")->type_name("TEXT")->needs(chat);
  command->add_option("--prompt", flags->prompt, "raw text to go on with (without either: standard input)")
      ->type_name("TEXT")
      ->excludes(chat);
  command->add_option("--max-tokens", flags->max_tokens, "stop after so many")->type_name("N");
  auto* temperature =
      command->add_option("--temperature", flags->temperature, "0: always the likeliest token")->type_name("T");
  command->add_option("--seed", flags->seed, "same seed, same text")->type_name("N");
  command->add_option("--param", flags->parameters, "any sampling parameter of the chain: --param top_k=40")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false);
  command->add_option("--stop", flags->stop, "end before this text")->type_name("TEXT")->allow_extra_args(false);
  command->add_flag("--ignore-end", flags->ignore_end, "go on through the model's end-of-text token");
  command->add_option("--priority", flags->priority, "higher goes first where requests wait")->type_name("N");
  command->add_option("--deadline-ms", flags->deadline_ms, "fail if it is not done by then")->type_name("MS");
  command->add_option("--timeout", flags->timeout_s, "seconds to wait for a sign of life")
      ->type_name("S")
      ->check(CLI::Range(0.01, 86400.0))
      ->capture_default_str();
  auto* health = command->add_flag("--health", flags->health, "how the server is; exit code 1 if it makes no progress");
  auto* info = command->add_flag("--info", flags->info, "what the server runs");
  auto* metrics = command->add_flag("--metrics", flags->metrics, "the server's counters and gauges");
  auto* drain = command->add_flag("--drain", flags->drain, "have the server take no new requests");
  health->excludes(info, metrics, drain);
  info->excludes(metrics, drain);
  metrics->excludes(drain);
  command->add_flag("--json", flags->json, "machine-readable output");
  command->add_flag("--quiet", flags->quiet, "no figures after the text");
  command->callback([flags, temperature] {
    flags->has_temperature = temperature->count() > 0;
    run_client(*flags);
  });
}

}  // namespace patchbay
