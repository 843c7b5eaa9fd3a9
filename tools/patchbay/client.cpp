// patchbay client: a prompt to a server, its text back; or a question about the server.
#include "tools/patchbay/client_flags.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <iostream>
#include <iterator>

#include "moe/sdk/curve_keys.hpp"
#include "tools/patchbay/commands.hpp"

namespace patchbay {
namespace {

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
    if (!flags.system.empty()) add_message(out->mutable_chat(), "system", flags.system);
    add_message(out->mutable_chat(), "user", flags.chat);
  } else if (!flags.prompt.empty()) {
    out->set_text(flags.prompt);
  } else {
    if (isatty(0) == 1)
      return moe::invalid("prompt: expected --chat TEXT, --prompt TEXT or text on standard input, got none");
    out->set_text(std::string(std::istreambuf_iterator<char>(std::cin), {}));
  }
  return {};
}

// What came of a stream.
struct Received {
  std::string text;
  std::vector<int32_t> ids;
};

void print_end(const ClientFlags& flags, const Received& received, const v1::End& end) {
  const auto& u = end.usage();
  const auto& t = end.timings();
  if (flags.json) {
    fmt::print("{}\n", dump({{"text", received.text},
                             {"ids", received.ids},
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
  v1::Generate request = value_or_fail(request_of(flags));
  ok_or_fail(set_prompt(flags, &request));
  const auto client = value_or_fail(connect(flags.server));
  Received received;
  const auto take = [&](const v1::Tokens& tokens) {
    received.text += tokens.text();
    received.ids.insert(received.ids.end(), tokens.ids().begin(), tokens.ids().end());
    if (flags.json) return;
    std::fwrite(tokens.text().data(), 1, tokens.text().size(), stdout);
    std::fflush(stdout);
  };
  const v1::End end = value_or_fail(client->generate(std::move(request), take, interrupted));
  if (end.reason() == v1::FINISH_REASON_FAILED) {
    if (!flags.json && !received.text.empty()) fmt::print("\n");
    fail({static_cast<moe_status>(end.error().code()), end.error().message()});
  }
  print_end(flags, received, end);
}

void run_client(const ClientFlags& flags) {
  if (flags.health || flags.info || flags.metrics || flags.drain) return ask_server(flags);
  if (!flags.batch.empty()) return run_batch(flags);
  generate(flags);
}

}  // namespace

void add_server_flags(CLI::App& command, ServerFlags& flags) {
  command.add_option("--server", flags.address, "its address")->type_name("ADDRESS")->capture_default_str();
  auto* key = command.add_option("--key", flags.key, "file with our own keys (patchbay keys new)")->type_name("FILE");
  command.add_option("--server-key", flags.server_key, "file with the server's public key: encrypts")
      ->type_name("FILE")
      ->needs(key);
  command.add_option("--timeout", flags.timeout_s, "seconds to wait for a sign of life")
      ->type_name("S")
      ->check(CLI::Range(0.01, 86400.0))
      ->capture_default_str();
}

moe::Result<std::unique_ptr<moe::Client>> connect(const ServerFlags& flags, uint64_t window) {
  moe::ClientOptions options;
  options.address = flags.address;
  options.patience = std::chrono::milliseconds(static_cast<int64_t>(flags.timeout_s * 1000));
  options.window = window;
  if (window == 0) options.reconnect_for = std::chrono::milliseconds(0);
  if (!flags.server_key.empty()) {
    MOE_ASSIGN(const moe::CurveKeys own, moe::read_curve_keys(flags.key));
    MOE_ASSIGN(const auto server, moe::read_public_keys(flags.server_key));
    options.server_key = server.front().key;
    options.public_key = own.public_key;
    options.secret_key = own.secret_key;
  }
  return moe::Client::connect(std::move(options));
}

void add_message(v1::Chat* chat, const std::string& role, const std::string& content) {
  v1::ChatMessage* message = chat->add_messages();
  message->set_role(role);
  message->set_content(content);
}

moe::Result<v1::Generate> request_of(const ClientFlags& flags) {
  v1::Generate g;
  g.set_max_tokens(flags.max_tokens);
  g.set_seed(flags.seed);
  g.set_priority(flags.priority);
  g.set_deadline_ms(flags.deadline_ms);
  g.set_ignore_end(flags.ignore_end);
  for (const std::string& s : flags.stop) g.add_stop(s);
  if (flags.has_temperature) (*g.mutable_sampling())["temperature"].set_number(flags.temperature);
  for (const std::string& text : flags.parameters) {
    const size_t equals = text.find('=');
    if (equals == 0 || equals == std::string::npos) {
      return moe::invalid(fmt::format("--param: expected name=value, got {}", text));
    }
    (*g.mutable_sampling())[text.substr(0, equals)] = value_of(text.substr(equals + 1));
  }
  return g;
}

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

void add_client(CLI::App& app) {
  auto flags = std::make_shared<ClientFlags>();
  CLI::App* command =
      app.add_subcommand("client", "Send a prompt to a server and stream its text, or ask about the server");
  add_server_flags(*command, flags->server);
  auto* chat =
      command->add_option("--chat", flags->chat, "a user's message, in the model's own chat format")->type_name("TEXT");
  command->add_option("--system", flags->system, "a system message before it")->type_name("TEXT")->needs(chat);
  command->add_option("--prompt", flags->prompt, "raw text to go on with (without either: standard input)")
      ->type_name("TEXT")
      ->excludes(chat);
  auto* batch =
      command
          ->add_option("--batch", flags->batch,
                       "a file with a request a line: text, or JSON with prompt or messages, and id, max_tokens, "
                       "seed, stop, sampling")
          ->type_name("FILE")
          ->excludes(chat);
  command
      ->add_option("--output", flags->output, "where the batch's answers go, a line of JSON each; else standard output")
      ->type_name("FILE")
      ->needs(batch);
  command->add_option("--parallel", flags->parallel, "requests of a batch at one time")
      ->type_name("N")
      ->check(CLI::Range(1, 256))
      ->needs(batch)
      ->capture_default_str();
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
