// What a server says about itself.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tools/patchbay/client_flags.hpp"

namespace patchbay {
namespace {

v1::ServerMessage ask(const ClientFlags& flags, const v1::ClientMessage& question) {
  const auto client = value_or_fail(connect(flags.server));
  return value_or_fail(client->ask(question));
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
    std::string labels;
    for (const v1::Label& l : m.labels())
      labels += fmt::format("{}{}=\"{}\"", labels.empty() ? "" : ",", l.name(), l.value());
    const std::string name = labels.empty() ? m.name() : m.name() + "{" + labels + "}";
    values[name] = m.value();
    if (!flags.json) fmt::print("{} {}\n", name, m.value());
  }
  if (flags.json) fmt::print("{}\n", dump(values));
}

}  // namespace

void ask_server(const ClientFlags& flags) {
  if (flags.health) return show_health(flags);
  if (flags.info) return show_info(flags);
  if (flags.metrics) return show_metrics(flags);
  v1::ClientMessage question;
  question.mutable_control()->mutable_drain();
  ask(flags, question);
  fmt::print("{}\n", flags.json ? R"({"state":"draining"})" : "draining");
}

}  // namespace patchbay
