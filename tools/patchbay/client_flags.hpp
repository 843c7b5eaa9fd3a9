// Flags of `client`, and what its parts share.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "moe/sdk/client.hpp"
#include "tools/patchbay/session.hpp"

namespace patchbay {

// Where a server is and how to prove who we are; shared with `top`.
struct ServerFlags {
  std::string address = "tcp://127.0.0.1:5757";
  std::string server_key;  // a file with the server's public key; empty: no encryption
  std::string key;         // a file with our own two keys
  double timeout_s = 5;
};
void add_server_flags(CLI::App& command, ServerFlags& flags);
// With a `window` (see moe::ClientOptions) streams go on when the connection breaks; without, they end with it, so that a
// killed client keeps no place.
moe::Result<std::unique_ptr<moe::Client>> connect(const ServerFlags& flags, uint64_t window = 0);

struct ClientFlags {
  ServerFlags server;
  std::string prompt;
  std::string chat;
  std::string system;
  std::string batch;
  std::string output;
  int64_t parallel = 32;
  std::vector<std::string> parameters;
  std::vector<std::string> stop;
  int64_t max_tokens = 0;
  double temperature = 0;
  bool has_temperature = false;
  uint64_t seed = 0;
  int32_t priority = 0;
  int64_t deadline_ms = 0;
  bool ignore_end = false;
  bool health = false;
  bool info = false;
  bool metrics = false;
  bool drain = false;
  bool json = false;
  bool quiet = false;
};

// Everything of a request but its prompt.
moe::Result<v1::Generate> request_of(const ClientFlags& flags);
void add_message(v1::Chat* chat, const std::string& role, const std::string& content);

// "stop", "length", "cancelled" or "failed".
const char* reason_name(v1::FinishReason reason);
// One line; what is not UTF-8 is replaced.
std::string dump(const nlohmann::json& document);

// client --batch: one request a line, many at a time.
void run_batch(const ClientFlags& flags);
// client --health, --info, --metrics, --drain.
void ask_server(const ClientFlags& flags);

}  // namespace patchbay
