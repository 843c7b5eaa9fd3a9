// The http transport over an engine that echoes. A chat's prompt is its last message.
#pragma once

#include "http_client.hpp"
#include "transport_fixture.hpp"

namespace patchbay::testing {

struct HttpTest : TransportTest {
  HttpTest() : TransportTest("transport_http", "127.0.0.1:0") {
    model = byte_model("{{ messages[-1]['content'] }}");
    info.set_model("echo");
    info.add_sampling("temperature");
  }
  static nlohmann::json prompt(const std::string& text, nlohmann::json more = nlohmann::json::object()) {
    more["prompt"] = text;
    if (!more.contains("max_tokens")) more["max_tokens"] = 4000;
    return more;
  }
  static nlohmann::json message(const std::string& text, nlohmann::json more = nlohmann::json::object()) {
    more["messages"] = {{{"role", "user"}, {"content", text}}};
    return more;
  }
};

}  // namespace patchbay::testing
